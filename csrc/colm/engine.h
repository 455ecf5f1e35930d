// The loop: one step() writes one token.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "colm/decision.h"
#include "colm/draft.h"
#include "colm/estimates.h"
#include "colm/reader.h"
#include "colm/sequence.h"
#include "colm/turns.h"

namespace colm {

class Engine {
  public:
    // Requires the two models over vocabularies that share the first `n_shared` ids. `blocked` are ids among
    // them that stand for no token and can never be chosen.
    Engine(std::unique_ptr<LanguageModel> base, std::unique_ptr<LanguageModel> assistant,
           std::size_t n_shared, std::vector<Token> blocked = {});

    // Decides the token that follows `sequence` and appends it. The base always reads the text; the assistant
    // only where the token is deferred, all that it has not read yet in one go. Requires 1 <=
    // sequence.tokens.size() <= n_ctx(). Throws Cancelled or GenerationError with the tokens unchanged.
    // Safe from several threads: steps exclude each other, and each model re-reads what another sequence
    // displaced.
    // A step from inside a step of the same thread (a signal handler) throws GenerationError.
    Step step(Sequence& sequence, Router& router, Interrupt& interrupt);

    // The same with look-ahead. Tokens, sources, deferral logits and thresholds are those of the plain step,
    // except where a batch of another size rounds differently. One verification may make several tokens
    // certain; the steps after it then compute nothing. `draft` must be made for this text and see all its
    // steps.
    Step step(Sequence& sequence, Router& router, Draft& draft, Interrupt& interrupt);

    // Whether both models can go back by some tokens, as look-ahead asks them to. Not beside a step.
    bool can_look_ahead() const;
    const Estimates& estimates() const { return estimates_; }
    // Whose text is computed. Whoever writes texts takes turns; step() itself does not ask.
    Turns& turns() { return turns_; }

    // How many tokens a text may have: the smaller of the two contexts.
    std::size_t n_ctx() const;
    std::size_t n_shared() const { return choices_.n_shared; }
    const Reader& base() const { return base_; }
    const Reader& assistant() const { return assistant_; }

    // Makes these decodes of `tokens` again, in order and with nothing beside them, and returns the seconds
    // that each took: what a generation costs without the method. What was read is forgotten, before and
    // after. Throws OptionError for a call that lies outside `tokens` or does not follow the ones before it.
    std::vector<double> replay(const std::vector<Token>& tokens, const std::vector<DecodeCall>& calls,
                               Interrupt& interrupt);

    // Forgets every text read, so that the next prompt is read from its beginning.
    void reset();

  private:
    class Exclusive;

    Step plain_step(Sequence& sequence, Router& router, Interrupt& interrupt);
    Output read_base(const std::vector<Token>& tokens, bool hidden, Sequence& sequence, Interrupt& interrupt);
    Output read_assistant(const std::vector<Token>& tokens, Sequence& sequence, Interrupt& interrupt);
    void asked_assistant(std::chrono::steady_clock::time_point start, std::size_t n_calls,
                         Sequence& sequence);

    // Adds one more position to the draft: the base's token, a draft token, or the assistant's token. The
    // assistant is asked at once only where nothing is open. False: the position waits for the open draft
    // tokens.
    bool go_on(Sequence& sequence, Router& router, Draft& draft, bool may_draft, Interrupt& interrupt);
    // Has the assistant verify the open draft tokens.
    void ask(Sequence& sequence, Router& router, Draft& draft, Interrupt& interrupt);
    bool may_go_on(const Draft& draft) const;

    Reader base_;
    Reader assistant_;
    Choices choices_;
    Estimates estimates_;
    Turns turns_;
    std::mutex mutex_;
    std::atomic<std::thread::id> computing_{};  // the thread that holds mutex_
};

}  // namespace colm
