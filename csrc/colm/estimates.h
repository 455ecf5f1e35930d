// The seconds that each part of a step takes with these models on this machine, and the acceptance rate of
// draft tokens. Both are measured while texts are written. They decide whether the base drafts further.
#pragma once

#include <array>
#include <cstddef>

namespace colm {

class Estimates {
  public:
    // A position that the base read alone; one batch of the assistant's, read in one decode.
    void base_step(double seconds);
    void assistant_batch(std::size_t n_tokens, double seconds);
    // A position of a text: whether it was deferred.
    void position(bool deferred);
    // Whether the assistant wrote what the base would have written, whose likeliest token had these log-odds.
    void verified(double log_odds, bool accepted);

    // The probability that a draft token is accepted, in (0, 1).
    double acceptance_rate(double log_odds) const;
    // Seconds of one base step, seconds of an assistant's batch of any size, and seconds that each token adds
    // to that batch. 0 before they were measured.
    double base_seconds() const { return base_.mean; }
    double call_seconds() const;
    double token_seconds() const;
    // The share of the positions that is deferred, the last ones weighing most.
    double deferral_rate() const { return deferral_rate_; }

    // Whether the base should write on rather than ask the assistant now. `p`: the probability that all open
    // draft tokens are accepted. The next position is deferred with probability `rate`; it then shares this
    // call. If a draft token is rejected, the base's step and its token in the assistant's batch are lost:
    //   p rate call > (1 - p) (base + token), by a margin
    // False before both models were measured.
    bool worth_going_on(double p) const;

  private:
    // The mean of the last values, outliers cut.
    struct Mean {
        double mean = 0.0;
        std::size_t n = 0;
        void add(double value);
    };
    struct Bucket {
        double n = 0.0;
        double n_accepted = 0.0;
    };
    static constexpr std::size_t kBuckets = 12;

    static std::size_t bucket(double log_odds);

    Mean base_;
    // Of the assistant's batches: weighted sums of 1, n, n^2, seconds, n seconds.
    double weight_ = 0.0, sizes_ = 0.0, squares_ = 0.0, seconds_ = 0.0, products_ = 0.0;
    double deferral_rate_ = 0.2;
    std::array<Bucket, kBuckets> buckets_{};
};

}  // namespace colm
