#include "colm/strategy.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace colm {
namespace {

// log sigmoid(x)
double log_sigmoid(double x) { return x >= 0 ? -std::log1p(std::exp(-x)) : x - std::log1p(std::exp(x)); }

double log_add(double a, double b) {
    const double larger = std::max(a, b);
    if (std::isinf(larger)) return larger;
    return larger + std::log1p(std::exp(std::min(a, b) - larger));
}

}  // namespace

Mixer::Mixer(const StrategyOptions& options) : options_(options) { check_ranges(options); }

Routed Mixer::mix(const Routed& base, const Routed& assistant, double defer_logit) {
    if (options_.strategy == Strategy::defer) return assistant;
    const std::size_t n = assistant.logits.size;
    const double base_norm = base.distribution.log_normalizer;
    const double assistant_norm = assistant.distribution.log_normalizer;
    mixed_.resize(n);
    if (options_.strategy == Strategy::compose) {
        const double log_stay = log_sigmoid(-defer_logit) - base_norm;
        const double log_defer = log_sigmoid(defer_logit) - assistant_norm;
        for (std::size_t i = 0; i < n; ++i)
            mixed_[i] =
                static_cast<float>(log_add(base.logits[i] + log_stay, assistant.logits[i] + log_defer));
    } else {
        const double cutoff = std::log(options_.alpha) + assistant.distribution.top_logprob();
        for (std::size_t i = 0; i < n; ++i) {
            const double expert = assistant.logits[i] - assistant_norm;
            // An id that the base rules out is as unlikely as the floor of its distribution, not infinitely
            // good; one that the assistant rules out is below the cutoff.
            const double amateur =
                std::max(base.logits[i] - base_norm, base.distribution.top_logprob() - 87.0);
            mixed_[i] = expert >= cutoff ? static_cast<float>(expert - options_.beta * amateur)
                                         : -std::numeric_limits<float>::infinity();
        }
    }
    const View<const float> logits{mixed_.data(), n};
    return {logits, summarize(logits)};
}

}  // namespace colm
