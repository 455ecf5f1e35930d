#include "colm/writing.h"

#include <algorithm>
#include <utility>

#include "colm/error.h"

namespace colm {

Writing::Writing(std::vector<Token> prompt, std::size_t n_ctx, Deciders deciders, Limits limits, Piece piece,
                 EndsText ends_text, OwnPrompts own_prompts, std::unique_ptr<SharedText> shared)
    : n_ctx_(n_ctx),
      deciders_(std::move(deciders)),
      limits_(std::move(limits)),
      piece_(std::move(piece)),
      ends_text_(std::move(ends_text)),
      own_prompts_(std::move(own_prompts)),
      shared_(std::move(shared)),
      text_(limits_.stop) {
    if (limits_.max_tokens < -1)
        throw OptionError("max_tokens is " + std::to_string(limits_.max_tokens) + "; it must be 0 or more");
    const auto check = [n_ctx](const std::vector<Token>& tokens) {
        if (tokens.empty()) throw TokenizeError("the prompt has no tokens; give at least one character");
        if (tokens.size() <= n_ctx) return;
        throw ContextFull("the prompt has " + std::to_string(tokens.size()) +
                              " tokens and the context holds " + std::to_string(n_ctx) +
                              "; shorten the prompt or load the pair with a larger n_ctx",
                          static_cast<std::int64_t>(tokens.size()), static_cast<std::int64_t>(n_ctx));
    };
    check(prompt);
    // The text ends where the longest prompt and what was written fill the context.
    for (const auto& [expert, own] : own_prompts_) {
        check(own);
        if (!shared_ && own.size() > prompt.size())
            n_ctx_ = std::min(n_ctx_, n_ctx + prompt.size() - own.size());
    }
    sequence_.n_prompt = prompt.size();
    sequence_.tokens = std::move(prompt);
}

void Writing::end_if_full() {
    if (finished()) return;
    if (sequence_.tokens.size() >= limit() || (shared_ && shared_->longest() >= n_ctx_))
        finish(FinishReason::length);
}

std::size_t Writing::limit() const {
    if (limits_.max_tokens < 0) return n_ctx_;
    return std::min(n_ctx_, sequence_.n_prompt + static_cast<std::size_t>(limits_.max_tokens));
}

void Writing::take(Step step) {
    if (ends_text_(step)) {
        end_step_ = std::move(step);
        return finish(FinishReason::eos);
    }
    const auto& stops = limits_.stop_tokens;
    const std::size_t whose = step.expert < stops.size() ? step.expert : 0;
    const bool stop = !stops.empty() && std::count(stops[whose].begin(), stops[whose].end(), step.token) > 0;
    const std::string piece = piece_(step);
    text_.push(std::move(step), piece);
    if (text_.stopped() || stop) finish(FinishReason::stop);
}

void Writing::finish(FinishReason reason) {
    finish_reason_ = reason;
    // After a failure nothing more is let go: what was held back has not become certain.
    if (reason != FinishReason::failed) text_.finish();
}

}  // namespace colm
