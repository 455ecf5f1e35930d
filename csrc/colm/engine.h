// The loop: one step() writes one token.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "colm/decision.h"
#include "colm/reader.h"
#include "colm/sequence.h"

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

    // How many tokens a text may have: the smaller of the two contexts.
    std::size_t n_ctx() const;
    std::size_t n_shared() const { return choices_.n_shared; }
    const Reader& base() const { return base_; }
    const Reader& assistant() const { return assistant_; }

    // Forgets every text read, so that the next prompt is read from its beginning.
    void reset();

  private:
    class Exclusive;

    Reader base_;
    Reader assistant_;
    Choices choices_;
    std::mutex mutex_;
    std::atomic<std::thread::id> computing_{};  // the thread that holds mutex_
};

}  // namespace colm
