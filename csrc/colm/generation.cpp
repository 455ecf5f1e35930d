#include "colm/generation.h"

#include <utility>

#include "colm/error.h"

namespace colm {

Generation::Generation(std::shared_ptr<Engine> engine, std::vector<Token> prompt, Router router,
                       Limits limits, Piece piece, EndsText ends_text, std::function<bool()> poll_interrupt)
    : engine_(std::move(engine)),
      router_(std::move(router)),
      limits_(std::move(limits)),
      piece_(std::move(piece)),
      ends_text_(std::move(ends_text)),
      text_(limits_.stop),
      interrupt_(std::move(poll_interrupt)) {
    const std::size_t n_ctx = engine_->n_ctx();
    if (limits_.max_tokens < -1)
        throw OptionError("max_tokens is " + std::to_string(limits_.max_tokens) + "; it must be 0 or more");
    if (prompt.empty()) throw TokenizeError("the prompt has no tokens; give at least one character");
    if (prompt.size() > n_ctx)
        throw ContextFull("the prompt has " + std::to_string(prompt.size()) +
                              " tokens and the context holds " + std::to_string(n_ctx) +
                              "; shorten the prompt or load the pair with a larger n_ctx",
                          static_cast<std::int64_t>(prompt.size()), static_cast<std::int64_t>(n_ctx));
    sequence_.n_prompt = prompt.size();
    sequence_.tokens = std::move(prompt);
    published_ = sequence_;
}

std::optional<StreamedStep> Generation::next() {
    while (text_.empty() && finish_reason_ == FinishReason::none) advance();
    if (text_.empty()) return std::nullopt;
    return text_.pop();
}

void Generation::advance() {
    if (full()) return finish(FinishReason::length);
    Step step;
    try {
        interrupt_.check();
        step = engine_->step(sequence_, router_, interrupt_);
    } catch (const Cancelled&) {
        return finish(FinishReason::cancelled);
    } catch (...) {
        // A grammar that refused a token, say, must not be asked again: llama.cpp would abort.
        finish_reason_ = FinishReason::failed;
        publish();
        throw;
    }
    publish();
    if (ends_text_(step.token)) {
        {
            const std::lock_guard<std::mutex> lock(published_mutex_);
            end_step_ = std::move(step);
        }
        return finish(FinishReason::eos);
    }
    const Token token = step.token;
    text_.push(std::move(step), piece_(token));
    if (text_.stopped()) finish(FinishReason::stop);
}

bool Generation::full() const {
    const auto max_tokens = static_cast<std::size_t>(limits_.max_tokens);
    return sequence_.tokens.size() >= engine_->n_ctx() ||
           (limits_.max_tokens >= 0 && sequence_.n_generated() >= max_tokens);
}

void Generation::finish(FinishReason reason) {
    publish();
    finish_reason_ = reason;
    text_.finish();
}

void Generation::publish() {
    const std::lock_guard<std::mutex> lock(published_mutex_);
    const auto append = [](auto& to, const auto& from) {
        to.insert(to.end(), from.begin() + static_cast<std::ptrdiff_t>(to.size()), from.end());
    };
    append(published_.tokens, sequence_.tokens);
    append(published_.calls, sequence_.calls);
    published_.stats = sequence_.stats;
}

Sequence Generation::sequence() const {
    const std::lock_guard<std::mutex> lock(published_mutex_);
    return published_;
}

std::optional<Step> Generation::end_step() const {
    const std::lock_guard<std::mutex> lock(published_mutex_);
    return end_step_;
}

}  // namespace colm
