#include "colm/saved_texts.h"

#include <algorithm>
#include <new>
#include <numeric>
#include <optional>
#include <utility>

namespace colm {
namespace {

// Reading so few tokens takes no longer than copying them.
constexpr std::size_t kLeast = 32;

// A beginning that is no longer says nothing about whether two texts belong together.
constexpr std::size_t kLeastCommon = 16;

std::size_t bytes_of(const SavedTexts::Saved& saved) {
    std::size_t n = 0;
    for (const auto& slot : saved) n += slot ? slot->bytes() : 0;
    return n;
}

}  // namespace

SavedTexts::SavedTexts(std::size_t n_slots, std::size_t most_bytes)
    : most_bytes_(most_bytes), slots_by_age_(n_slots) {
    std::iota(slots_by_age_.begin(), slots_by_age_.end(), std::size_t{0});
}

std::size_t SavedTexts::choose(const Experts& experts, const std::vector<std::size_t>& free,
                               const Tokens& tokens) {
    std::optional<std::size_t> best;
    std::size_t most = kLeastCommon;
    for (const std::size_t slot : free) {
        std::size_t n_known = 0;
        std::size_t n_held = 0;
        for (std::size_t e = 0; e < experts.size(); ++e) {
            n_known += experts[e]->n_known(slot, *tokens[e]);
            n_held += experts[e]->n_held(slot);
        }
        if (n_known < most || 2 * n_known < n_held) continue;
        most = n_known + 1;
        best = slot;
    }
    if (!best)
        best = *std::find_if(slots_by_age_.begin(), slots_by_age_.end(), [&](std::size_t slot) {
            return std::find(free.begin(), free.end(), slot) != free.end();
        });
    use(*best);
    return *best;
}

void SavedTexts::exchange(const Experts& experts, std::size_t slot, const Tokens& tokens) {
    if (most_bytes_ == 0) return;
    std::size_t n_here = 0;
    for (std::size_t e = 0; e < experts.size(); ++e) n_here += experts[e]->n_known(slot, *tokens[e]);
    auto best = saved_.end();
    std::size_t most = n_here + kLeast;
    for (auto it = saved_.begin(); it != saved_.end(); ++it) {
        std::size_t n = 0;
        for (std::size_t e = 0; e < it->size(); ++e) n += (*it)[e] ? (*it)[e]->n_known(*tokens[e]) : 0;
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
        if (found[e] && found[e]->n_known(*tokens[e]) > experts[e]->n_known(slot, *tokens[e]))
            experts[e]->restore(slot, *found[e]);
}

// What the new text will not use of the slot.
void SavedTexts::save(const Experts& experts, std::size_t slot, const Tokens& tokens) {
    std::size_t n_held = 0;
    std::size_t n_kept = 0;
    for (std::size_t e = 0; e < experts.size(); ++e) {
        n_held += experts[e]->n_held(slot);
        n_kept += experts[e]->n_known(slot, *tokens[e]);
    }
    if (n_held < n_kept + kLeast) return;
    try {
        Saved kept;
        for (const auto& expert : experts) kept.push_back(expert->save(slot));
        keep(std::move(kept));
    } catch (const std::bad_alloc&) {
        // It is read again where it is wanted again; the text that comes need not fail for it.
    }
}

// Of those that are too many the oldest go.
void SavedTexts::keep(Saved saved) {
    const std::size_t size = bytes_of(saved);
    if (size == 0 || size > most_bytes_) return;
    while (bytes_ + size > most_bytes_) {
        bytes_ -= bytes_of(saved_.front());
        saved_.pop_front();
    }
    bytes_ += size;
    saved_.push_back(std::move(saved));
}

void SavedTexts::use(std::size_t slot) {
    const auto place = std::find(slots_by_age_.begin(), slots_by_age_.end(), slot);
    std::rotate(place, place + 1, slots_by_age_.end());
}

std::vector<KnownText> SavedTexts::known(const Experts& experts) const {
    std::vector<KnownText> texts;
    for (const Saved& saved : saved_) texts.push_back({std::nullopt, saved});
    for (const std::size_t slot : slots_by_age_) {
        Saved parts;
        for (const auto& expert : experts) parts.push_back(expert->save(slot));
        if (bytes_of(parts) > 0) texts.push_back({slot, std::move(parts)});
    }
    return texts;
}

bool SavedTexts::know(const Experts& experts, const std::vector<KnownText>& texts) {
    for (const KnownText& text : texts) {
        if (!text.slot || *text.slot >= slots_by_age_.size()) {
            keep(text.parts);
            continue;
        }
        for (std::size_t e = 0; e < text.parts.size(); ++e)
            if (text.parts[e] && !experts[e]->restore(*text.slot, *text.parts[e])) return false;
        use(*text.slot);
    }
    return true;
}

void SavedTexts::clear() {
    saved_.clear();
    bytes_ = 0;
    // Slots are as new, too: which one a text gets decides how batches lie, and so the last digits.
    std::iota(slots_by_age_.begin(), slots_by_age_.end(), std::size_t{0});
}

}  // namespace colm
