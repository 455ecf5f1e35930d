// Defer or stay: the threshold in force and the comparison with it.
#pragma once

#include <cstddef>

#include "colm/options.h"

namespace colm {

class Policy {
  public:
    // Throws OptionError for a threshold outside [0, 1] or a negative schedule length.
    explicit Policy(const PolicyOptions& options);

    // eta for the token generated after `n_generated` others. With progress p = min(1, n_generated / K):
    //   constant     eta                             linear  1 + (eta - 1) p
    //   exponential  max(eta, 1e-4)^p; eta at p = 1  cosine  eta + (1 - eta) (1 + cos(pi p)) / 2
    // (the floor keeps the exponential path defined where eta is 0).
    double threshold_at(std::size_t n_generated) const;

    // Whether z > logit(eta). Decided by eta itself at both ends, so that eta = 1 never defers and eta = 0
    // always does, for every z (infinities included). Throws GenerationError where z is NaN.
    static bool defers(double defer_logit, double threshold);

  private:
    PolicyOptions options_;
};

}  // namespace colm
