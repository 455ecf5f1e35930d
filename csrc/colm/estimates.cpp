#include "colm/estimates.h"

#include <algorithm>
#include <cmath>

namespace colm {
namespace {

constexpr double kForget = 0.97;  // weight of the past at each new value
constexpr double kOutlier = 3.0;  // a machine that was busy elsewhere
constexpr double kEnoughForOutliers = 4.0;
constexpr double kDraftForget = 0.995;
constexpr double kDraftPrior = 4.0;  // draft tokens that the base's own probability counts for
constexpr double kFirstSlope = 0.4;  // of a token in a batch against the whole batch, before it is known
constexpr double kSlopePrior = 2.0;
constexpr double kMargin = 1.15;

}  // namespace

void Estimates::Line::add(double size, double seconds) {
    if (weight_ > kEnoughForOutliers) seconds = std::min(seconds, kOutlier * this->seconds(size));
    for (double* sum : {&weight_, &sizes_, &squares_, &seconds_, &products_}) *sum *= kForget;
    weight_ += 1.0;
    sizes_ += size;
    squares_ += size * size;
    seconds_ += seconds;
    products_ += size * seconds;
}

// Least squares with a prior for the slope, which batches of one size cannot tell.
double Estimates::Line::token_seconds() const {
    if (weight_ == 0.0) return 0.0;
    const double mean_size = sizes_ / weight_;
    const double mean_seconds = seconds_ / weight_;
    const double covariance = products_ - sizes_ * mean_seconds;
    const double variance = std::max(0.0, squares_ - sizes_ * mean_size);
    const double first = kFirstSlope * mean_seconds / (1.0 + kFirstSlope * (mean_size - 1.0));
    const double slope = (covariance + kSlopePrior * first) / (variance + kSlopePrior);
    return std::clamp(slope, 0.0, mean_seconds / mean_size);
}

double Estimates::Line::call_seconds() const {
    if (weight_ == 0.0) return 0.0;
    return std::max(0.0, (seconds_ - token_seconds() * sizes_) / weight_);
}

void Estimates::reading(ExpertId expert, std::size_t n_tokens, double seconds) {
    readings_[expert].add(static_cast<double>(n_tokens), seconds);
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

bool Estimates::worth_going_on(const std::vector<double>& p, ExpertId expert, std::size_t n_texts) const {
    const Line& base = readings_[kBase];
    const Line& asked = readings_[expert];
    if (base.empty() || asked.empty() || p.empty()) return false;
    const auto n = static_cast<double>(std::max<std::size_t>(n_texts, 1));
    const double lost = base.seconds(n) / n + asked.token_seconds();
    double none = 1.0;
    double loss = 0.0;
    for (const double right : p) {
        none *= 1.0 - right * deferral_rate_;
        loss += (1.0 - right) * lost;
    }
    return (1.0 - none) * asked.call_seconds() > kMargin * loss;
}

}  // namespace colm
