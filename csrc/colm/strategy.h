// What an expert's turn means: the distribution that chooses a deferred token.
#pragma once

#include <vector>

#include "colm/distribution.h"
#include "colm/options.h"

namespace colm {

// A distribution over the ids that may be chosen. `logits` are borrowed.
struct Routed {
    View<const float> logits;
    Distribution distribution;
};

// The experts that `proxy` compares; the base where it does not.
struct ProxyPair {
    ExpertId tuned = kBase;
    ExpertId untuned = kBase;
};

class Mixer {
  public:
    // Throws OptionError for an option outside its range. With `proxy`, requires the two experts.
    explicit Mixer(const StrategyOptions& options, ProxyPair proxy = {});

    // The distribution at a position that is deferred to `expert`. Requires both over the same ids;
    // `defer_logit` weighs the mixture of `compose`. The result borrows from `expert` or from this object.
    Routed mix(const Routed& base, const Routed& expert, double defer_logit);
    // The mixture of `compose` with several experts, each with log P(Z = k | Z > 0).
    struct Part {
        const Routed* expert;
        double log_share;
    };
    Routed compose(const Routed& base, const std::vector<Part>& parts, double defer_logit);
    // The distribution of `proxy`.
    Routed proxy(const Routed& base, const Routed& tuned, const Routed& untuned);

    Strategy strategy() const { return options_.strategy; }
    // Whether the base's distribution has a part in a deferred token.
    bool needs_base() const { return options_.strategy != Strategy::defer; }
    // Whether every expert's has, not only that of the one whose turn it is.
    bool needs_all() const { return options_.strategy == Strategy::compose; }
    // Every deferred token is the turn of the tuned one; not of any that the head names.
    const ProxyPair& proxy_pair() const { return proxy_; }

  private:
    // Logits, one for each of `n` ids, and their distribution.
    template <typename Logit>
    Routed mixed(std::size_t n, const Logit& logit);

    StrategyOptions options_;
    ProxyPair proxy_;
    std::vector<float> mixed_;
};

}  // namespace colm
