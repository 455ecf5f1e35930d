#include "colm/policy.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "colm/error.h"

namespace colm {

namespace {
constexpr double kPi = 3.14159265358979323846;
constexpr double kExponentialFloor = 1e-4;
constexpr double kGain = 0.75;
// Before there is a deviation, and for heads whose z hardly moves.
constexpr double kFirstDeviation = 1.0;
constexpr double kLeastDeviation = 0.05;
constexpr std::size_t kEnoughToMeasure = 8;
constexpr double kLargestLogit = 30.0;
}  // namespace

Policy::Policy(const PolicyOptions& options) : options_(options) {
    check_ranges(options);
    options_.leave_threshold =
        std::min(options.leave_threshold.value_or(options.threshold), options.threshold);
    if (options.target_rate && options.schedule != Schedule::constant)
        throw OptionError("a schedule and target_rate both move the threshold; leave one of them out");
}

void Policy::observe(double defer_logit, ExpertId expert, bool waited) {
    last_ = expert;
    if (expert == kBase || waited)
        n_held_ = 0;
    else if (--n_held_ < 0)  // the head was asked, and deferred
        n_held_ = options_.hold - 1;
    if (!std::isfinite(defer_logit)) return;
    ++n_;
    const double from_old = defer_logit - mean_;
    mean_ += from_old / static_cast<double>(n_);
    squares_ += from_old * (defer_logit - mean_);
}

double Policy::steered(double eta, std::size_t n_generated, std::size_t n_deferred) const {
    const double rate = *options_.target_rate;
    if (rate <= 0.0) return 1.0;
    if (rate >= 1.0) return 0.0;
    const double deviation =
        n_ < kEnoughToMeasure ? kFirstDeviation
                              : std::max(kLeastDeviation, std::sqrt(squares_ / static_cast<double>(n_ - 1)));
    const double start = std::log(eta) - std::log1p(-eta);
    // A decision to defer counts `hold` tokens. The full gain would swing to and fro, and a gain divided by
    // `hold` would take long to correct the start.
    const double ahead = (static_cast<double>(n_deferred) - rate * static_cast<double>(n_generated)) /
                         std::sqrt(static_cast<double>(options_.hold));
    const double logit =
        std::clamp(std::clamp(start, -kLargestLogit, kLargestLogit) + kGain * deviation * ahead,
                   -kLargestLogit, kLargestLogit);
    return 1.0 / (1.0 + std::exp(-logit));
}

double Policy::threshold_at(std::size_t n_generated, std::size_t n_deferred) const {
    const double eta = last_ != kBase ? *options_.leave_threshold : options_.threshold;
    if (options_.target_rate) return steered(eta, n_generated, n_deferred);
    const auto k = static_cast<std::size_t>(options_.schedule_tokens);
    if (options_.schedule == Schedule::constant || n_generated >= k) return eta;
    const double progress = static_cast<double>(n_generated) / static_cast<double>(k);
    switch (options_.schedule) {
        case Schedule::linear:
            return 1.0 + (eta - 1.0) * progress;
        case Schedule::cosine:
            return eta + (1.0 - eta) * 0.5 * (1.0 + std::cos(kPi * progress));
        case Schedule::exponential:
            return std::pow(std::max(eta, kExponentialFloor), progress);
        case Schedule::constant:
            break;
    }
    return eta;
}

bool Policy::defers(double defer_logit, double threshold) {
    if (std::isnan(defer_logit))
        throw GenerationError("the defer logit is NaN; the head or the base is damaged");
    if (threshold <= 0.0) return true;
    if (threshold >= 1.0) return false;
    return defer_logit > std::log(threshold) - std::log1p(-threshold);
}

}  // namespace colm
