// One text being written: steps, their text, and why it ended.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "colm/engine.h"
#include "colm/text_stream.h"

namespace colm {

class Generation {
  public:
    struct Limits {
        int max_tokens = 128;  // -1: until the context is full
        std::vector<std::string> stop;
    };
    // What a token stands for in the text, as bytes ("" for control tokens).
    using Piece = std::function<std::string(Token)>;
    // Whether a token ends the text: end-of-generation for either model.
    using EndsText = std::function<bool(Token)>;

    // Requires a prompt of 1 to engine->n_ctx() tokens.
    Generation(std::shared_ptr<Engine> engine, std::vector<Token> prompt, Router router, Limits limits,
               Piece piece, EndsText ends_text, std::function<bool()> poll_interrupt);

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
    void finish(FinishReason reason);
    bool full() const;
    void publish();

    std::shared_ptr<Engine> engine_;
    Sequence sequence_;
    Router router_;
    Limits limits_;
    Piece piece_;
    EndsText ends_text_;
    TextStream text_;
    Interrupt interrupt_;
    std::atomic<FinishReason> finish_reason_{FinishReason::none};
    std::optional<Step> end_step_;

    mutable std::mutex published_mutex_;
    Sequence published_;  // a copy of sequence_ that grows with it
};

}  // namespace colm
