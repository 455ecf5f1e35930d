// One text being written by an engine, step by step, while other threads look on.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "colm/engine.h"
#include "colm/writing.h"

namespace colm {

class Generation {
  public:
    using Limits = Writing::Limits;

    // Requires a prompt of 1 to engine->n_ctx() tokens.
    Generation(std::shared_ptr<Engine> engine, std::vector<Token> prompt, Router router, Limits limits,
               Writing::Piece piece, Writing::EndsText ends_text, std::function<bool()> poll_interrupt,
               int lookahead = 0);
    // `lookahead`: see GenerationOptions.
    Generation(std::shared_ptr<Engine> engine, Writing writing, std::function<bool()> poll_interrupt,
               int lookahead = 0);

    // The next token whose text is certain, or nothing at the end of the text; several steps of the engine
    // where a stop string or a character is incomplete. The token that ends a text is not among them: see
    // end_step().
    std::optional<StreamedStep> next();

    // Asks a running or later next() to end the text as `cancelled`. Safe from any thread.
    void cancel() { interrupt_.request(); }

    // What follows may be read by any thread while another is in next(); it is what the last whole step left.
    FinishReason finish_reason() const { return finish_reason_.load(); }
    // The end-of-generation token that ended the text (finish reason `eos`), with who chose it.
    std::optional<Step> end_step() const;
    Sequence sequence() const;

  private:
    void advance();
    void publish();

    std::shared_ptr<Engine> engine_;
    Writing writing_;
    Draft draft_;
    Interrupt interrupt_;
    std::atomic<FinishReason> finish_reason_{FinishReason::none};

    mutable std::mutex published_mutex_;
    Sequence published_;  // a copy of the text that grows with it
    std::optional<Step> end_step_;
};

}  // namespace colm
