#include "colm/policy.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "colm/error.h"

namespace colm {

namespace {
constexpr double kPi = 3.14159265358979323846;
constexpr double kExponentialFloor = 1e-4;
}  // namespace

Policy::Policy(const PolicyOptions& options) : options_(options) {
    if (!(options.threshold >= 0.0 && options.threshold <= 1.0))
        throw OptionError("threshold is " + std::to_string(options.threshold) +
                          "; it must be between 0 and 1");
    if (options.schedule_tokens < 0)
        throw OptionError("schedule_tokens is " + std::to_string(options.schedule_tokens) +
                          "; it must be 0 or more");
}

double Policy::threshold_at(std::size_t n_generated) const {
    const double eta = options_.threshold;
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
        throw GenerationError("the deferral logit is NaN; the head or the base is damaged");
    if (threshold <= 0.0) return true;
    if (threshold >= 1.0) return false;
    return defer_logit > std::log(threshold) - std::log1p(-threshold);
}

}  // namespace colm
