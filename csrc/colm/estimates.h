// The seconds that each part of a step takes with these experts on this machine, and the acceptance rate of
// draft tokens. Both are measured while texts are written. They decide whether the base drafts further.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "colm/types.h"

namespace colm {

class Estimates {
  public:
    explicit Estimates(std::size_t n_experts = 2);
    // What takes time of that expert is the way there and back.
    void answers_later(ExpertId expert);

    // One batch of an expert's, for all texts together.
    void reading(ExpertId expert, std::size_t n_tokens, double seconds);
    // A position of a text: whether it was deferred.
    void position(bool deferred);
    // Whether an expert wrote what the base would have written, whose likeliest token had these log-odds.
    void verified(double log_odds, bool accepted);

    // The probability that a draft token is accepted, in (0, 1).
    double acceptance_rate(double log_odds) const;
    // An expert's seconds for a batch of any size, and those that each token adds to it. 0 before they were
    // measured.
    double call_seconds(ExpertId expert) const { return readings_[expert].call_seconds(); }
    double token_seconds(ExpertId expert) const { return readings_[expert].token_seconds(); }

    // Whether the base should write on, for `n_texts` texts in one batch, rather than ask `expert` now. `p`:
    // for each text with open draft tokens, the probability that all of them are accepted. With probability
    // p rate, the next position of such a text is deferred behind drafts that are right, and shares this
    // call. With probability 1 - p, its part of the base's step and its token in the expert's batch are lost:
    //   (1 - prod (1 - p rate)) call > sum (1 - p) (base / n_texts + token), by a margin
    // False before both were measured, and where the account does not cover what may be lost: `n_risked`
    // tokens that were written behind open draft tokens, and one more for each text.
    bool worth_going_on(const std::vector<double>& p, ExpertId expert, std::size_t n_texts,
                        std::size_t n_risked = 0) const;

    // Whether the base should draft on while `expert`, which answers later, is waited for: drafts that are
    // right with probability `p` hide its call, wrong ones delay what follows by half a step of the base.
    //   p call > (1 - p) base / 2, by a margin
    bool hides_latency(double p, ExpertId expert) const;

    // The account of look-ahead, in seconds. It may lose a small share of all time spent, and what it has
    // won: so it is never much slower than none, however wrong the estimates are. A rejected draft token
    // loses the `n_lost` tokens behind it. Every position that shares another one's call wins it.
    void lost(ExpertId expert, std::size_t n_lost);
    void shared_call(ExpertId expert, std::size_t n_texts);
    double account() const { return account_; }

  private:
    // The seconds of batches as a line over their size.
    class Line {
      public:
        explicit Line(double first_slope) : first_slope_(first_slope) {}
        void add(double size, double seconds);
        bool empty() const { return weight_ == 0.0; }
        double token_seconds() const;
        double call_seconds() const;
        double seconds(double size) const { return call_seconds() + size * token_seconds(); }

      private:
        double first_slope_;
        // Weighted sums of 1, n, n^2, seconds, n seconds.
        double weight_ = 0.0, sizes_ = 0.0, squares_ = 0.0, seconds_ = 0.0, products_ = 0.0;
    };
    struct Bucket {
        double n = 0.0;
        double n_accepted = 0.0;
    };
    static constexpr std::size_t kBuckets = 12;

    static std::size_t bucket(double log_odds);
    // What a token costs that is dropped: its part of the base's step, and its place in the expert's batch.
    double token_lost(ExpertId expert, std::size_t n_texts) const;

    std::vector<Line> readings_;  // by expert
    double deferral_rate_ = 0.2;  // of all positions, the last ones weighing most
    std::array<Bucket, kBuckets> buckets_{};
    Bucket expected_;  // of all draft tokens: what the base's own probability expected, and what was accepted
    double account_ = 0.0;
};

}  // namespace colm
