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
// Of a token in a batch against one token alone, before it is known: reading is not free, and neither is a
// base's step for one text where there were others before.
constexpr double kFirstSlope = 0.4;
constexpr double kFirstBaseSlope = 0.1;
constexpr double kFirstLaterSlope = 0.02;
constexpr double kSlopePrior = 2.0;
constexpr double kMargin = 1.15;
constexpr double kTrustPrior = 1.0;    // draft tokens that are believed before any is verified
constexpr double kMayLose = 0.015;     // of all time spent
constexpr double kMostAccount = 30.0;  // in tokens that are lost, so that a change is noticed soon
constexpr double kLeastWrong = 0.4;    // probability that a risk comes true; an estimate may be far too low

double probability(double log_odds) { return 1.0 / (1.0 + std::exp(-std::clamp(log_odds, -4.0, 4.0))); }

}  // namespace

Estimates::Estimates(std::size_t n_experts) : readings_(n_experts, Line(kFirstSlope)) {
    readings_[kBase] = Line(kFirstBaseSlope);
}

void Estimates::answers_later(ExpertId expert) { readings_[expert] = Line(kFirstLaterSlope); }

bool Estimates::hides_latency(double p, ExpertId expert) const {
    const Line& base = readings_[kBase];
    const Line& asked = readings_[expert];
    if (base.empty() || asked.empty()) return false;
    return p * asked.call_seconds() > kMargin * (1.0 - p) * base.seconds(1.0) / 2.0;
}

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
    const double first = first_slope_ * mean_seconds / (1.0 + first_slope_ * (mean_size - 1.0));
    const double slope = (covariance + kSlopePrior * first) / (variance + kSlopePrior);
    return std::clamp(slope, 0.0, mean_seconds / mean_size);
}

double Estimates::Line::call_seconds() const {
    if (weight_ == 0.0) return 0.0;
    return std::max(0.0, (seconds_ - token_seconds() * sizes_) / weight_);
}

void Estimates::reading(ExpertId expert, std::size_t n_tokens, double seconds) {
    Line& line = readings_[expert];
    line.add(static_cast<double>(n_tokens), seconds);
    account_ += kMayLose * std::min(seconds, kOutlier * line.seconds(static_cast<double>(n_tokens)));
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
    const auto add = [accepted](Bucket& b, double n) {
        b.n = kDraftForget * b.n + n;
        b.n_accepted = kDraftForget * b.n_accepted + (accepted ? 1.0 : 0.0);
    };
    add(buckets_[bucket(log_odds)], 1.0);
    add(expected_, probability(log_odds));
}

// The base's own probability, as far as it was right so far about all tokens and about such ones.
double Estimates::acceptance_rate(double log_odds) const {
    const Bucket& b = buckets_[bucket(log_odds)];
    const double trust = std::min(1.0, (expected_.n_accepted + kTrustPrior) / (expected_.n + kTrustPrior));
    return (b.n_accepted + kDraftPrior * trust * probability(log_odds)) / (b.n + kDraftPrior);
}

double Estimates::token_lost(ExpertId expert, std::size_t n_texts) const {
    const auto n = static_cast<double>(std::max<std::size_t>(n_texts, 1));
    return readings_[kBase].seconds(n) / n + readings_[expert].token_seconds();
}

// A text that goes back ends later, perhaps when no other shares the base's steps any more.
void Estimates::lost(ExpertId expert, std::size_t n_lost) {
    account_ -= static_cast<double>(n_lost) * token_lost(expert, 1);
}

// Without look-ahead, texts share a call where they happen to be deferred in the same step.
void Estimates::shared_call(ExpertId expert, std::size_t n_texts) {
    const auto n = static_cast<double>(std::max<std::size_t>(n_texts, 1));
    const double r = std::max(deferral_rate_, 1e-3);
    account_ += readings_[expert].call_seconds() * (1.0 - std::pow(1.0 - r, n)) / (n * r);
    account_ = std::min(account_, kMostAccount * token_lost(expert, 1));
}

bool Estimates::worth_going_on(const std::vector<double>& p, ExpertId expert, std::size_t n_texts,
                               std::size_t n_risked) const {
    const Line& base = readings_[kBase];
    const Line& asked = readings_[expert];
    if (base.empty() || asked.empty() || p.empty()) return false;
    const double token = token_lost(expert, n_texts);
    double none = 1.0;
    double loss = 0.0;
    double most_wrong = 0.0;
    for (const double right : p) {
        none *= 1.0 - right * deferral_rate_;
        loss += (1.0 - right) * token;
        most_wrong = std::max(most_wrong, 1.0 - right);
    }
    const double risk =
        std::max(most_wrong, kLeastWrong) * static_cast<double>(n_risked + p.size()) * token_lost(expert, 1);
    return (1.0 - none) * asked.call_seconds() > kMargin * loss && account_ >= risk;
}

}  // namespace colm
