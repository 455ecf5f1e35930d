#include "colm/generation.h"

#include <utility>

#include "colm/error.h"

namespace colm {

Generation::Generation(std::shared_ptr<Engine> engine, std::vector<Token> prompt, Router router,
                       Limits limits, Writing::Piece piece, Writing::EndsText ends_text,
                       std::function<bool()> poll_interrupt, int lookahead)
    : Generation(engine,
                 Writing(std::move(prompt), engine->n_ctx(), std::move(router), std::move(limits),
                         std::move(piece), std::move(ends_text)),
                 std::move(poll_interrupt), lookahead) {}

Generation::Generation(std::shared_ptr<Engine> engine, Writing writing, std::function<bool()> poll_interrupt,
                       int lookahead)
    : engine_(std::move(engine)),
      writing_(std::move(writing)),
      draft_(writing_.sequence(), lookahead, writing_.limit(), writing_.ends_text()),
      interrupt_(std::move(poll_interrupt)),
      published_(writing_.sequence()) {}

void Generation::cancel() {
    interrupt_.request();
    engine_->turns().wake();
}

std::optional<StreamedStep> Generation::next(std::optional<double> timeout) {
    std::optional<StreamedStep> streamed;
    in_turn(timeout, [&] { streamed = next_in_turn(); });
    return streamed;
}

std::vector<StreamedStep> Generation::rest(std::optional<double> timeout) {
    std::vector<StreamedStep> all;
    in_turn(timeout, [&] {
        while (!turn_.given_back()) {
            std::optional<StreamedStep> streamed = next_in_turn();
            if (!streamed) break;
            all.push_back(std::move(*streamed));
        }
    });
    return all;
}

template <typename Use>
void Generation::in_turn(std::optional<double> timeout, const Use& use) {
    try {
        const Turns::Inside inside(engine_->turns(), turn_, timeout, interrupt_);
        if (!inside) return;
        begun_.store(true);
        use();
    } catch (const Cancelled&) {  // while it waited
        finish_reason_.store(FinishReason::cancelled);
    }
}

std::optional<StreamedStep> Generation::next_in_turn() {
    while (writing_.empty() && finish_reason_ == FinishReason::none) advance();
    if (writing_.empty()) return std::nullopt;
    return writing_.pop();
}

void Generation::advance() {
    writing_.end_if_full();
    if (writing_.finished()) return publish();
    try {
        interrupt_.check();
        writing_.take(engine_->step(writing_.sequence(), writing_.router(), draft_, interrupt_));
    } catch (const Cancelled&) {
        writing_.finish(FinishReason::cancelled);
    } catch (...) {
        // A grammar that refused a token, say, must not be asked again: llama.cpp would abort.
        writing_.finish(FinishReason::failed);
        publish();
        throw;
    }
    publish();
}

void Generation::publish() {
    const std::lock_guard<std::mutex> lock(published_mutex_);
    const auto append = [](auto& to, const auto& from) {
        to.insert(to.end(), from.begin() + static_cast<std::ptrdiff_t>(to.size()), from.end());
    };
    const Sequence& sequence = writing_.sequence();
    append(published_.tokens, sequence.tokens);
    append(published_.calls, sequence.calls);
    published_.stats = sequence.stats;
    end_step_ = writing_.end_step();
    finish_reason_ = writing_.finish_reason();
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
