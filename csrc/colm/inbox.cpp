#include "colm/inbox.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace colm {

std::shared_ptr<Text> Inbox::add(Writing writing, int lookahead, const Choices& choices) {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto text = std::make_shared<Text>(next_id_++, writing.sequence());
    added_.push_back(std::make_unique<Running>(text, std::move(writing), lookahead, choices));
    return text;
}

bool Inbox::cancel(Text& text, Slots& slots) {
    const std::lock_guard<std::mutex> lock(mutex_);
    text.cancelled_.store(true);
    const bool in_step = std::find(in_step_.begin(), in_step_.end(), &text) != in_step_.end();
    if (!in_step && slots.leave_queue(text)) {
        text.finish_reason_.store(FinishReason::cancelled);
        return true;
    }
    if (computing_ != nullptr && all_cancelled()) {
        abandoned_ = true;
        computing_->abandon();
    }
    return false;
}

void Inbox::take(std::vector<std::unique_ptr<Running>>& running) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::move(added_.begin(), added_.end(), std::back_inserter(running));
    added_.clear();
}

void Inbox::begin_step(std::vector<Text*> in_step, Interrupt& interrupt) {
    const std::lock_guard<std::mutex> lock(mutex_);
    in_step_ = std::move(in_step);
    computing_ = &interrupt;
    // cancel() abandons a step that it finds. Texts that were cancelled before this one began are seen here.
    if (all_cancelled()) {
        abandoned_ = true;
        interrupt.abandon();
    }
}

bool Inbox::end_step(Interrupt& interrupt) {
    const std::lock_guard<std::mutex> lock(mutex_);
    computing_ = nullptr;
    in_step_.clear();
    if (!std::exchange(abandoned_, false)) return false;
    interrupt.resume();
    return true;
}

bool Inbox::all_cancelled() const {
    const auto cancelled = [](const Text* text) { return text->cancelled_.load(); };
    return !in_step_.empty() && std::all_of(in_step_.begin(), in_step_.end(), cancelled);
}

}  // namespace colm
