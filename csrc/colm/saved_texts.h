// Which slot a text gets, and what slots held when other texts took them, up to a limit of bytes: so that two
// long chats that alternate are not read again each time.
#pragma once

#include <cstddef>
#include <list>
#include <memory>
#include <vector>

#include "colm/expert.h"

namespace colm {

class SavedTexts {
  public:
    using Experts = std::vector<std::unique_ptr<Expert>>;
    // What the experts knew of a text, by expert; null where one knew nothing.
    using Saved = std::vector<std::shared_ptr<const SavedSlot>>;

    SavedTexts(std::size_t n_slots, std::size_t most_bytes);

    // Of the `free` slots the one that holds the longest beginning of the text, where that is most of what
    // it holds; else the one that was not used for longest.
    std::size_t choose(const Experts& experts, const std::vector<std::size_t>& free,
                       const std::vector<Token>& tokens);
    // Before a new text takes `slot`: saves what is lost there, and restores what was saved of this text.
    // `tokens` is the new text.
    void exchange(const Experts& experts, std::size_t slot, const std::vector<Token>& tokens);
    // Keeps a text, and drops the oldest ones where they are too many. Whether there is room for it.
    bool keep(Saved saved);
    // The oldest first.
    const std::list<Saved>& all() const { return saved_; }
    const std::vector<std::size_t>& slots_by_age() const { return slots_by_age_; }
    void clear();
    std::size_t bytes() const { return bytes_; }
    std::size_t size() const { return saved_.size(); }

  private:
    void save(const Experts& experts, std::size_t slot, const std::vector<Token>& tokens);

    std::size_t most_bytes_;
    std::size_t bytes_ = 0;
    std::list<Saved> saved_;
    std::vector<std::size_t> slots_by_age_;  // the one that was not used for longest first
};

}  // namespace colm
