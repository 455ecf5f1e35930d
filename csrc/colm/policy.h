// Defer or stay: the threshold in force, the comparison with it, and how long a run of an expert lasts.
#pragma once

#include <cstddef>

#include "colm/options.h"
#include "colm/types.h"

namespace colm {

class Policy {
  public:
    // Throws OptionError for a threshold, leave threshold or target rate outside [0, 1], a negative schedule
    // length, a hold below 1, or a target rate beside a schedule.
    explicit Policy(const PolicyOptions& options);

    // eta for the token generated after `n_generated` others: the leave threshold where the token observed
    // last was not the base's, else the threshold. Schedule and target rate move both in the same way, from
    // the value in the options. With progress p = min(1, n_generated / K):
    //   constant     eta                             linear  1 + (eta - 1) p
    //   exponential  max(eta, 1e-4)^p; eta at p = 1  cosine  eta + (1 - eta) (1 + cos(pi p)) / 2
    // (the floor keeps the exponential path defined where eta is 0).
    // With a target rate r, `n_deferred` of the tokens so far and s the deviation of the z seen in this text:
    //   logit(eta) + 0.75 s (n_deferred - r n_generated) / sqrt(hold)
    // an integral controller. Whatever z does, after n tokens the rate is off by sqrt(hold) (u - logit(eta))
    // / (0.75 s n) at most, where u is what the controller has come to: 1 point at 200 tokens, a start 1.5 s
    // away and a hold of 1.
    double threshold_at(std::size_t n_generated, std::size_t n_deferred) const;

    // Takes note of a token of this text, in order: its deferral logit (infinite ones tell nothing, nor does
    // NaN, where the head was not asked), and who wrote it. `waited`: see Step; it begins no hold.
    void observe(double defer_logit, ExpertId expert, bool waited = false);

    // Whose the next token is whatever z is, because a hold goes on; the base where none does.
    ExpertId held_by() const { return n_held_ > 0 ? last_ : kBase; }

    // Whether z > logit(eta). Decided by eta itself at both ends, so that eta = 1 never defers and eta = 0
    // always does, for every z (infinities included). Throws GenerationError where z is NaN.
    static bool defers(double defer_logit, double threshold);

  private:
    double steered(double eta, std::size_t n_generated, std::size_t n_deferred) const;

    PolicyOptions options_;
    // Who wrote the last token, and how many more it writes unasked.
    ExpertId last_ = kBase;
    int n_held_ = 0;
    // Of the z observed: how many, their mean, and the sum of squares about it (Welford).
    std::size_t n_ = 0;
    double mean_ = 0.0;
    double squares_ = 0.0;
};

}  // namespace colm
