// One text that an engine writes step by step. Other threads may read it meanwhile.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "colm/engine.h"
#include "colm/turns.h"
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
    ~Generation() { give_back(); }
    Generation(const Generation&) = delete;
    Generation& operator=(const Generation&) = delete;

    // The next token whose text is certain, or nothing at the end of the text or after give_back(). It takes
    // several steps of the engine while a stop string or a character is incomplete. The token that ends a
    // text is not returned: see end_step(). Waits for its turn first, at most `timeout` seconds, then throws
    // QueueTimeout. A text that is cancelled while it waits ends.
    std::optional<StreamedStep> next(std::optional<double> timeout = {});
    // All the tokens that next() would give, in one turn.
    std::vector<StreamedStep> rest(std::optional<double> timeout = {});

    // Asks a running or later next() to end the text as `cancelled`. Safe from any thread.
    void cancel();
    // Ends the text and its turn. Safe from any thread.
    void give_back() { engine_->turns().give_back(turn_); }
    // Whether the text is, or was, computed.
    bool begun() const { return begun_.load(); }

    // Any thread may read the following while another is in next(). They show the last finished step.
    FinishReason finish_reason() const { return finish_reason_.load(); }
    // The end-of-generation token that ended the text (finish reason `eos`), with who chose it.
    std::optional<Step> end_step() const;
    Sequence sequence() const;

  private:
    template <typename Use>
    void in_turn(std::optional<double> timeout, const Use& use);
    std::optional<StreamedStep> next_in_turn();
    void advance();
    void publish();

    std::shared_ptr<Engine> engine_;
    Writing writing_;
    Draft draft_;
    Interrupt interrupt_;
    Turns::Turn turn_;
    std::atomic<bool> begun_{false};
    std::atomic<FinishReason> finish_reason_{FinishReason::none};

    mutable std::mutex published_mutex_;
    Sequence published_;  // a copy of the text that grows with it
    std::optional<Step> end_step_;
};

}  // namespace colm
