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

Routed Mixer::mix(const Routed& base, const Routed& expert, double defer_logit) {
    if (options_.strategy == Strategy::defer) return expert;
    if (options_.strategy == Strategy::compose) return compose(base, {{&expert, 0.0}}, defer_logit);
    const std::size_t n = expert.logits.size;
    const double base_norm = base.distribution.log_normalizer;
    const double expert_norm = expert.distribution.log_normalizer;
    mixed_.resize(n);
    const double cutoff = std::log(options_.alpha) + expert.distribution.top_logprob();
    for (std::size_t i = 0; i < n; ++i) {
        const double of_expert = expert.logits[i] - expert_norm;
        // An id that the base rules out is as unlikely as the floor of its distribution, not infinitely good;
        // one that the expert rules out is below the cutoff.
        const double of_base = std::max(base.logits[i] - base_norm, base.distribution.top_logprob() - 87.0);
        mixed_[i] = of_expert >= cutoff ? static_cast<float>(of_expert - options_.beta * of_base)
                                        : -std::numeric_limits<float>::infinity();
    }
    const View<const float> logits{mixed_.data(), n};
    return {logits, summarize(logits)};
}

Routed Mixer::compose(const Routed& base, const std::vector<Part>& parts, double defer_logit) {
    const std::size_t n = base.logits.size;
    mixed_.resize(n);
    const double log_stay = log_sigmoid(-defer_logit) - base.distribution.log_normalizer;
    std::vector<double> log_defer;
    for (const Part& part : parts)
        log_defer.push_back(log_sigmoid(defer_logit) + part.log_share -
                            part.expert->distribution.log_normalizer);
    for (std::size_t i = 0; i < n; ++i) {
        double sum = base.logits[i] + log_stay;
        for (std::size_t k = 0; k < parts.size(); ++k)
            sum = log_add(sum, parts[k].expert->logits[i] + log_defer[k]);
        mixed_[i] = static_cast<float>(sum);
    }
    const View<const float> logits{mixed_.data(), n};
    return {logits, summarize(logits)};
}

}  // namespace colm
