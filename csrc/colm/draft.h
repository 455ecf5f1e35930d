// Look-ahead: the base drafts deferred tokens, and the experts verify them later in one batch each.
//
// At a deferred position the base's own choice becomes a draft token. The base then writes on after it. When
// an expert is asked, it reads all unread tokens in one batch and chooses at every draft token that waits for
// it. The first choice that is another token replaces the draft token; everything after that is dropped. A
// draft may wait for several experts: what one chooses behind a token that another has yet to verify is kept
// until then. A token of the base's own is certain once the draft tokens before it are accepted. If every
// position is deferred to one expert, this is speculative decoding with the base as the draft model
// (Leviathan et al., arXiv 2211.17192). If none is, it is the base alone.
#pragma once

#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "colm/decision.h"
#include "colm/options.h"
#include "colm/sequence.h"

namespace colm {

// A position whose experts have yet to be heard, and what they chose.
struct Pending {
    std::unique_ptr<Decision> decision;
    // Once all have been heard: the token, or why there is none.
    std::optional<Step> step;
    std::exception_ptr error;
    // Unlike vocabularies: the expert that wrote last says first what it would write, whoever does.
    bool proposes = false;
    // And, with look-ahead, what the base would write, where it was asked, with its log-odds.
    std::optional<Step> drafted;
    double log_odds = 0.0;

    bool needs(ExpertId expert) const { return !step && !error && decision->needs(expert); }
    // Requires the sampler as it is before the token. Throws what is no GenerationError.
    void hear(ExpertId expert, const Answer& answer);
};

class Draft {
  public:
    // Whether a step's token ends the text.
    using EndsText = std::function<bool(const Step&)>;

    // `lookahead`: the most draft tokens that may be open; 0: none; kAutoLookahead: as many as pay. `limit`:
    // the most tokens that the text may have. The caller checks both.
    Draft(const Sequence& sequence, int lookahead, std::size_t limit, EndsText ends_text);

    int lookahead() const { return lookahead_; }

    // The text and what lies beyond it.
    const Sequence& text() const { return text_; }
    std::size_t n_ahead() const { return ahead_.size(); }
    std::size_t n_open() const { return n_open_; }
    // Tokens behind the first open draft token.
    std::size_t n_risked() const { return n_open_ == 0 ? 0 : ahead_.size() - first_open() - 1; }
    // The probability that all open draft tokens are accepted, estimated when they were drafted.
    double confidence() const;
    // Whether a token may follow the last one.
    bool can_go_on() const { return !ended_ && text_.tokens.size() < limit_; }
    // Whether the next token of the text is certain.
    bool ready() const { return !ahead_.empty() && !ahead_.front().open; }
    // Whose turn the first open draft token is.
    ExpertId first_expert() const { return ahead_[first_open()].open->pending.decision->expert(); }
    // How many tokens precede each open draft token that waits for `expert`; ascending.
    std::vector<std::size_t> open_positions(ExpertId expert) const;

    // Adds a token that is certain once the draft tokens before it are accepted.
    void add(const Step& step, Deciders& deciders);
    // Adds a draft token that will be accepted with probability `p`. Keeps the state from before it.
    void add_draft_token(std::unique_ptr<Decision> decision, const Step& step, double p, Deciders& deciders);

    // What an expert says after `position` tokens, of open_positions(). Returns why there can be
    // no token, else null.
    std::exception_ptr hear(std::size_t position, ExpertId expert, const Answer& answer, Deciders& deciders);
    // Whether the first open draft token can be verified, and why it has no token.
    bool heard_first() const;
    std::exception_ptr error_of_first() const { return ahead_[first_open()].open->pending.error; }
    // Verifies it. False: it was rejected and replaced, everything after it was dropped, and `deciders` went
    // back. Requires heard_first() and no error.
    bool verify(Deciders& deciders);
    // Log-odds of the base at the first open draft token.
    double first_log_odds() const { return ahead_[first_open()].open->pending.decision->base_log_odds(); }

    // Drops the first open draft token and everything after it.
    void forget_open(Deciders& deciders);

    // Moves the first token, which is certain, to the text. Requires ready().
    Step hand_over(Sequence& sequence);

  private:
    struct Open {
        Open(std::unique_ptr<Sampler> s, const Policy& before, double probability)
            : sampler(std::move(s)), policy(before), p(probability) {}

        Pending pending;
        // As they were before the draft token.
        std::unique_ptr<Sampler> sampler;  // null where it does not change
        Policy policy;
        double p;
    };
    struct Ahead {
        Step step;
        std::unique_ptr<Open> open;  // null: certain once the tokens before it are
    };

    std::size_t first_open() const;
    void go_back(std::size_t n_ahead, Deciders& deciders);

    int lookahead_;
    std::size_t limit_;
    EndsText ends_text_;
    Sequence text_;  // its calls and times stay empty
    std::deque<Ahead> ahead_;
    std::size_t n_open_ = 0;
    bool ended_ = false;
};

}  // namespace colm
