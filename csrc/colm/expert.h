// What the loop needs of whoever gives next-token distributions: a model in this process (local_expert.h), or
// anything that answers later and with less.
#pragma once

#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <vector>

#include "colm/distribution.h"
#include "colm/interrupt.h"
#include "colm/saved_slot.h"
#include "colm/types.h"

namespace colm {

// The next-token distribution after some tokens. Borrowed for the call that hands it out.
struct Prediction {
    // One of the two: a logit for every id that may be chosen, -inf for those that may not;
    View<const float> logits{nullptr, 0};
    // or the log-probabilities of the likeliest ids, descending, and the probability of all others together.
    View<const Candidate> likeliest{nullptr, 0};
    double tail = 0.0;

    const float* hidden = nullptr;  // [n_embd], after the final norm; null unless asked for
    float probe_logit = 0.0f;       // of the token that was asked about
    std::size_t n_hidden = 0;       // n_embd, with `hidden`
};

// A text up to some token, and where in it a distribution is wanted. Tokens are the expert's own
// (shared_text.h).
struct Question {
    std::size_t slot = 0;                        // the text's place, at most one question at a time
    const std::vector<Token>* tokens = nullptr;  // to be read up to the last count
    // After how many tokens a distribution is wanted, ascending.
    std::vector<std::size_t> counts = {};
    // Where nothing is wanted: how many tokens are read, because others are.
    std::size_t n_along = 0;
    // With the hidden state; then there is one count, all tokens.
    bool hidden = false;
    // Ids that may not be chosen, ascending; their probability belongs to the others.
    View<const Token> excluded{nullptr, 0};
    // A token whose logit is asked for, excluded or not.
    Token probe = kNoToken;
    // Where every decode is noted.
    std::vector<DecodeCall>* calls = nullptr;
};

// After the `number`-th (from 0) of the counts in the question about `slot`. Either a prediction or why there
// is none; after an error the question is answered.
struct Answer {
    std::size_t slot = 0;
    std::size_t number = 0;
    const Prediction* prediction = nullptr;
    std::exception_ptr error;
};

class Expert {
  public:
    virtual ~Expert() = default;

    // Texts at a time, and the tokens of each.
    virtual std::size_t n_slots() const = 0;
    virtual std::size_t n_ctx() const = 0;
    // The most counts of a question.
    virtual std::size_t n_counts() const = 0;
    // Whether a text may change behind tokens that were read without being read again from its beginning.
    virtual bool goes_back() const = 0;
    // Whether it computes elsewhere, so that the base may draft on while an answer is under way.
    virtual bool answers_later() const { return false; }
    // Whether a text goes on without it where it fails (RemoteError). Where none of the tokens that it names
    // may follow, every text does, at that position.
    virtual bool replaceable() const { return false; }

    // Takes questions. Nothing need be computed before collect().
    virtual void ask(std::vector<Question> questions) = 0;
    // Hands out the answers that there are, those of a question in order. Where there is none it waits for
    // some milliseconds, with `wait`. A local model answers all but those that need many tokens read, of
    // which it reads a part; each call brings them further. Throws Cancelled; open questions are dropped
    // then.
    using Use = std::function<void(const Answer&)>;
    virtual void collect(bool wait, Interrupt& interrupt, const Use& use) = 0;
    // Takes back the question about a slot, if there is one.
    virtual void drop(std::size_t slot) = 0;
    // The same where the text has ended, so that a call about it may be broken off.
    virtual void leave(std::size_t slot) { drop(slot); }

    // Batches that it computed so far, or questions that it sent elsewhere; 0: it does not say.
    virtual std::size_t n_decodes() const { return 0; }

    // The rest is for an expert that keeps what it has read of a text.

    // How many tokens at the beginning of `tokens` need not be read in a slot, and how many it holds in all.
    virtual std::size_t n_known(std::size_t, const std::vector<Token>&) const { return 0; }
    virtual std::size_t n_held(std::size_t) const { return 0; }
    // Forgets every text.
    virtual void forget() {}
    // A copy of what a slot holds, and back into any slot. Null and false where that is not possible.
    virtual std::shared_ptr<const SavedSlot> save(std::size_t) { return nullptr; }
    virtual bool restore(std::size_t, const SavedSlot&) { return false; }
};

}  // namespace colm
