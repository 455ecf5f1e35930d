#include "colm/saved_texts.h"

#include <algorithm>
#include <utility>

namespace colm {
namespace {

// Reading so few tokens takes no longer than copying them.
constexpr std::size_t kLeast = 32;

std::size_t bytes_of(const std::vector<std::unique_ptr<SavedSlot>>& saved) {
    std::size_t n = 0;
    for (const auto& slot : saved) n += slot ? slot->bytes() : 0;
    return n;
}

}  // namespace

void SavedTexts::exchange(const std::vector<std::unique_ptr<Expert>>& experts, std::size_t slot,
                          const std::vector<Token>& tokens) {
    if (most_bytes_ == 0) return;
    std::size_t n_here = 0;
    for (const auto& expert : experts) n_here += expert->n_known(slot, tokens);
    auto best = saved_.end();
    std::size_t most = n_here + kLeast;
    for (auto it = saved_.begin(); it != saved_.end(); ++it) {
        std::size_t n = 0;
        for (const auto& part : *it) n += part ? part->n_known(tokens) : 0;
        if (n < most) continue;
        most = n;
        best = it;
    }
    Saved found;
    if (best != saved_.end()) {
        found = std::move(*best);
        bytes_ -= bytes_of(found);
        saved_.erase(best);
    }
    save(experts, slot, tokens);
    for (std::size_t e = 0; e < found.size(); ++e)
        if (found[e] && found[e]->n_known(tokens) > experts[e]->n_known(slot, tokens))
            experts[e]->restore(slot, *found[e]);
}

// What the new text will not use of the slot.
void SavedTexts::save(const std::vector<std::unique_ptr<Expert>>& experts, std::size_t slot,
                      const std::vector<Token>& tokens) {
    std::size_t n_lost = 0;
    for (const auto& expert : experts) n_lost += expert->n_held(slot) - expert->n_known(slot, tokens);
    if (n_lost < kLeast) return;
    Saved kept;
    for (const auto& expert : experts) kept.push_back(expert->save(slot));
    const std::size_t size = bytes_of(kept);
    if (size == 0 || size > most_bytes_) return;
    while (bytes_ + size > most_bytes_) {
        bytes_ -= bytes_of(saved_.front());
        saved_.pop_front();
    }
    bytes_ += size;
    saved_.push_back(std::move(kept));
}

void SavedTexts::clear() {
    saved_.clear();
    bytes_ = 0;
}

}  // namespace colm
