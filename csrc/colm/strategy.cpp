#include "colm/strategy.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace colm {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Below the top's log-probability: what is ruled out counts as so unlikely where it is subtracted.
constexpr double kFloor = 87.0;

// log sigmoid(x)
double log_sigmoid(double x) { return x >= 0 ? -std::log1p(std::exp(-x)) : x - std::log1p(std::exp(x)); }

double log_add(double a, double b) {
    const double larger = std::max(a, b);
    if (std::isinf(larger)) return larger;
    return larger + std::log1p(std::exp(std::min(a, b) - larger));
}

}  // namespace

Mixer::Mixer(const StrategyOptions& options, ProxyPair proxy) : options_(options), proxy_(proxy) {
    check_ranges(options);
}

template <typename Logit>
Routed Mixer::mixed(std::size_t n, const Logit& logit) {
    mixed_.resize(n);
    for (std::size_t i = 0; i < n; ++i) mixed_[i] = static_cast<float>(logit(i));
    const View<const float> logits{mixed_.data(), n};
    return {logits, summarize(logits)};
}

Routed Mixer::mix(const Routed& base, const Routed& expert, double defer_logit) {
    if (options_.strategy == Strategy::defer) return expert;
    if (options_.strategy == Strategy::compose) return compose(base, {{&expert, 0.0}}, defer_logit);
    const double base_norm = base.distribution.log_normalizer;
    const double expert_norm = expert.distribution.log_normalizer;
    if (options_.strategy == Strategy::add)
        return mixed(expert.logits.size, [&](std::size_t i) {
            return (base.logits[i] - base_norm) + (expert.logits[i] - expert_norm);
        });
    const double cutoff = std::log(options_.alpha) + expert.distribution.top_logprob();
    return mixed(expert.logits.size, [&](std::size_t i) {
        const double of_expert = expert.logits[i] - expert_norm;
        // An id that the base rules out is as unlikely as the floor of its distribution, not infinitely good;
        // one that the expert rules out is below the cutoff.
        const double of_base = std::max(base.logits[i] - base_norm, base.distribution.top_logprob() - kFloor);
        return of_expert >= cutoff ? of_expert - options_.beta * of_base : -kInfinity;
    });
}

Routed Mixer::proxy(const Routed& base, const Routed& tuned, const Routed& untuned) {
    const auto at_least = [](const Routed& of, std::size_t i) {
        const Distribution& distribution = of.distribution;
        return std::max(of.logits[i] - distribution.log_normalizer, distribution.top_logprob() - kFloor);
    };
    return mixed(base.logits.size, [&](std::size_t i) {
        return base.logits[i] - base.distribution.log_normalizer +
               options_.proxy_weight * (at_least(tuned, i) - at_least(untuned, i));
    });
}

Routed Mixer::compose(const Routed& base, const std::vector<Part>& parts, double defer_logit) {
    const double log_stay = log_sigmoid(-defer_logit) - base.distribution.log_normalizer;
    std::vector<double> log_defer;
    for (const Part& part : parts)
        log_defer.push_back(log_sigmoid(defer_logit) + part.log_share -
                            part.expert->distribution.log_normalizer);
    return mixed(base.logits.size, [&](std::size_t i) {
        double sum = base.logits[i] + log_stay;
        for (std::size_t k = 0; k < parts.size(); ++k)
            sum = log_add(sum, parts[k].expert->logits[i] + log_defer[k]);
        return sum;
    });
}

}  // namespace colm
