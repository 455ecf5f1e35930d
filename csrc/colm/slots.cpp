#include "colm/slots.h"

#include <algorithm>
#include <utility>

namespace colm {

void Slots::want(const std::shared_ptr<Text>& text, bool first) {
    const std::lock_guard<std::mutex> lock(mutex_);
    text->reader_ = std::this_thread::get_id();
    if (text->wanted_ || text->finish_reason() != FinishReason::none) return;
    const auto now = Clock::now();
    if (text->has_slot_ && !queue_.empty())
        text->idle_ += now - std::max(text->since_, queue_.front()->since_);
    text->wanted_ = true;
    text->since_ = now;
    if (!text->has_slot_) queue_.insert(first ? queue_.begin() : queue_.end(), text);
}

void Slots::rest(Text& text) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!text.wanted_) return;
    const auto now = Clock::now();
    text.wanted_ = false;
    // The longest that it was computed at a time: what reading it took, but for what was known of it.
    if (text.has_slot_)
        text.patience_ =
            std::clamp(std::max(text.patience_, now - text.since_), kLeastPatience, kMostPatience);
    else
        queue_.remove_if([&](const auto& other) { return other.get() == &text; });
    text.since_ = now;
}

std::shared_ptr<Text> Slots::first_waiting() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return queue_.empty() ? nullptr : queue_.front();
}

std::vector<std::size_t> Slots::free_for(const Text& text) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<std::size_t> free;
    for (std::size_t slot = 0; slot < holders_.size(); ++slot)
        if (holders_[slot] == nullptr) free.push_back(slot);
    if (!free.empty()) return free;
    const auto now = Clock::now();
    std::optional<Clock::duration> least;
    for (std::size_t slot = 0; slot < holders_.size(); ++slot) {
        if (holders_[slot]->wanted_) continue;
        const Clock::duration left = patience_left(*holders_[slot], text, now);
        if (left > Clock::duration::zero() || (least && left >= *least)) continue;
        least = left;
        free = {slot};
    }
    return free;
}

bool Slots::must_wait(const Text& text) const {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (text.has_slot_ || !text.wanted_) return false;
    }
    return free_for(text).empty();
}

void Slots::give(std::size_t slot, const std::shared_ptr<Text>& text) {
    const std::lock_guard<std::mutex> lock(mutex_);
    queue_.remove(text);
    if (const std::shared_ptr<Text> before = std::exchange(holders_[slot], text)) {
        before->has_slot_ = false;
        if (before->wanted_) queue_.push_back(before);
    }
    text->has_slot_ = true;
    text->since_ = Clock::now();
    text->idle_ = Clock::duration::zero();
}

bool Slots::leave_queue(Text& text) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (text.has_slot_ || !text.wanted_) return false;
    queue_.remove_if([&](const auto& other) { return other.get() == &text; });
    text.wanted_ = false;
    return true;
}

void Slots::leave(Text& text) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto& holder : holders_)
        if (holder.get() == &text) holder.reset();
    queue_.remove_if([&](const auto& other) { return other.get() == &text; });
    text.wanted_ = text.has_slot_ = false;
}

bool Slots::wanted(const Text& text) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return text.wanted_;
}

std::optional<Slots::Clock::duration> Slots::pause() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (queue_.empty()) return std::nullopt;
    const auto now = Clock::now();
    Clock::duration least = kMostPatience;
    for (const auto& holder : holders_)
        if (holder != nullptr && !holder->wanted_)
            least = std::min(least, patience_left(*holder, *queue_.front(), now));
    return std::max(least, Clock::duration::zero());
}

Slots::Clock::duration Slots::patience_left(const Text& holder, const Text& waiting,
                                            Clock::time_point now) const {
    // Its reader waits here itself, for another text.
    if (holder.reader_ == waiting.reader_) return Clock::duration::zero();
    const auto begin = std::max(holder.since_, queue_.empty() ? now : queue_.front()->since_);
    return holder.patience_ - holder.idle_ - (now - begin);
}

}  // namespace colm
