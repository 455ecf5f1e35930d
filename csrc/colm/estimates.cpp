#include "colm/estimates.h"

#include <algorithm>
#include <cmath>

namespace colm {
namespace {

constexpr double kForget = 0.97;  // weight of the past at each new value
constexpr double kOutlier = 3.0;  // a machine that was busy elsewhere
constexpr std::size_t kEnoughForOutliers = 4;
constexpr double kDraftForget = 0.995;
constexpr double kDraftPrior = 4.0;  // draft tokens that the base's own probability counts for
constexpr double kFirstSlope = 0.4;  // of a token in a batch against the whole batch, before it is known
constexpr double kSlopePrior = 2.0;
constexpr double kMargin = 1.15;

}  // namespace

void Estimates::Mean::add(double value) {
    ++n;
    if (n > kEnoughForOutliers) value = std::min(value, kOutlier * mean);
    const double weight = std::max(1.0 / static_cast<double>(n), 1.0 - kForget);
    mean += weight * (value - mean);
}

void Estimates::base_step(double seconds) { base_.add(seconds); }

void Estimates::assistant_batch(std::size_t n_tokens, double seconds) {
    const auto n = static_cast<double>(n_tokens);
    if (weight_ > static_cast<double>(kEnoughForOutliers))
        seconds = std::min(seconds, kOutlier * (call_seconds() + n * token_seconds()));
    for (double* sum : {&weight_, &sizes_, &squares_, &seconds_, &products_}) *sum *= kForget;
    weight_ += 1.0;
    sizes_ += n;
    squares_ += n * n;
    seconds_ += seconds;
    products_ += n * seconds;
}

// Least squares with a prior for the slope, which batches of one size cannot tell.
double Estimates::token_seconds() const {
    if (weight_ == 0.0) return 0.0;
    const double mean_size = sizes_ / weight_;
    const double mean_seconds = seconds_ / weight_;
    const double covariance = products_ - sizes_ * mean_seconds;
    const double variance = std::max(0.0, squares_ - sizes_ * mean_size);
    const double first = kFirstSlope * mean_seconds / (1.0 + kFirstSlope * (mean_size - 1.0));
    const double slope = (covariance + kSlopePrior * first) / (variance + kSlopePrior);
    return std::clamp(slope, 0.0, mean_seconds / mean_size);
}

double Estimates::call_seconds() const {
    if (weight_ == 0.0) return 0.0;
    return std::max(0.0, (seconds_ - token_seconds() * sizes_) / weight_);
}

void Estimates::position(bool deferred) {
    deferral_rate_ += (1.0 - kForget) * ((deferred ? 1.0 : 0.0) - deferral_rate_);
}

std::size_t Estimates::bucket(double log_odds) {
    // Of half a nat each from -1 on: most tokens are drafted where the base is unsure.
    const double place = (log_odds + 1.5) * 2.0;
    return static_cast<std::size_t>(std::clamp(place, 0.0, static_cast<double>(kBuckets - 1)));
}

void Estimates::verified(double log_odds, bool accepted) {
    Bucket& b = buckets_[bucket(log_odds)];
    b.n = kDraftForget * b.n + 1.0;
    b.n_accepted = kDraftForget * b.n_accepted + (accepted ? 1.0 : 0.0);
}

double Estimates::acceptance_rate(double log_odds) const {
    const Bucket& b = buckets_[bucket(log_odds)];
    const double p = 1.0 / (1.0 + std::exp(-std::clamp(log_odds, -4.0, 4.0)));
    return (b.n_accepted + kDraftPrior * p) / (b.n + kDraftPrior);
}

bool Estimates::worth_going_on(double p) const {
    if (base_.n == 0 || weight_ == 0.0) return false;
    const double gain = p * deferral_rate_ * call_seconds();
    const double loss = (1.0 - p) * (base_seconds() + token_seconds());
    return gain > kMargin * loss;
}

}  // namespace colm
