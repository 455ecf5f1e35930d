// Look-ahead: what is written beyond a text while the assistant has not been asked yet.
//
// At a deferred position the base's own choice stands in for the assistant's, and the base goes on behind it:
// further decisions and guesses follow from the guess. When the assistant is asked, it reads everything
// unread in one batch and checks all guesses; the first wrong one is replaced, and what came after it is
// forgotten. Tokens that stay with the base need no check beyond that of the guesses before them. Where every
// position is deferred, this is speculative decoding with the base as the draft (Leviathan et al., arXiv
// 2211.17192); where none is, it is the base alone.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "colm/decision.h"
#include "colm/options.h"
#include "colm/sequence.h"

namespace colm {

class Draft {
  public:
    // Whether a token ends the text.
    using EndsText = std::function<bool(Token)>;

    // `lookahead`: guesses that may be open at a time; 0: none; kAutoLookahead: as many as pay. `limit`: how
    // many tokens the text may have. Both are checked by the caller.
    Draft(const Sequence& sequence, int lookahead, std::size_t limit, EndsText ends_text);

    int lookahead() const { return lookahead_; }

    // The text and what lies beyond it.
    const Sequence& text() const { return text_; }
    std::size_t n_ahead() const { return ahead_.size(); }
    std::size_t n_open() const { return n_open_; }
    // The probability that all open guesses are right, by what was said when they were made.
    double confidence() const;
    // Whether a token may follow the last one.
    bool can_go_on() const { return !ended_ && text_.tokens.size() < limit_; }
    // Whether the next token of the text is certain.
    bool ready() const { return !ahead_.empty() && !ahead_.front().open; }
    // For each open guess, how many tokens precede it; ascending.
    std::vector<std::size_t> open_positions() const;

    // Adds a token that is certain if the guesses before it are right.
    void add(const Step& step, Router& router);
    // Adds a guess, right with probability `p`, and keeps what it takes to come back to it.
    void add_guess(std::unique_ptr<Decision> decision, const Step& step, double p, Router& router);

    // What the assistant's output after the tokens before the first open guess makes of it. False where the
    // guess was wrong: it is then replaced, what came after it is gone, and `router` stands behind it again.
    bool check(const Output& assistant, Router& router);
    // Log-odds of the base at the first open guess.
    double first_log_odds() const;

    // Forgets the first open guess and everything behind it.
    void forget_open(Router& router);

    // Moves the first token, which is certain, to the text. Requires ready().
    Step hand_over(Sequence& sequence);

  private:
    struct Open {
        std::unique_ptr<Decision> decision;
        // As they were before the guess.
        std::unique_ptr<Sampler> sampler;  // null where it does not change
        Policy policy;
        double p;
    };
    struct Ahead {
        Step step;
        std::unique_ptr<Open> open;  // null once it is certain, given what is before it
    };

    std::size_t first_open() const;
    void go_back(std::size_t n_ahead, Router& router);

    int lookahead_;
    std::size_t limit_;
    EndsText ends_text_;
    Sequence text_;  // its calls and times stay empty
    std::deque<Ahead> ahead_;
    std::size_t n_open_ = 0;
    bool ended_ = false;
};

}  // namespace colm
