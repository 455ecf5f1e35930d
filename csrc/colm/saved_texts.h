// Which slot a text gets, and what slots held when other texts took them, up to a limit of bytes: so that two
// long chats that alternate are not read again each time.
#pragma once

#include <cstddef>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "colm/expert.h"

namespace colm {

// A text that experts know: its slot, where it stands in one, and what each expert knows; null where one
// knows nothing.
struct KnownText {
    std::optional<std::size_t> slot;
    std::vector<std::shared_ptr<const SavedSlot>> parts;
};

class SavedTexts {
  public:
    using Experts = std::vector<std::unique_ptr<Expert>>;
    // What the experts knew of a text, by expert; null where one knew nothing.
    using Saved = std::vector<std::shared_ptr<const SavedSlot>>;
    // What each expert reads of a text.
    using Tokens = std::vector<const std::vector<Token>*>;

    SavedTexts(std::size_t n_slots, std::size_t most_bytes);

    // Of the `free` slots the one that holds the longest beginning of the text, where that is most of what
    // it holds; else the one that was not used for longest.
    std::size_t choose(const Experts& experts, const std::vector<std::size_t>& free, const Tokens& tokens);
    // Before a new text takes `slot`: saves what is lost there, and restores what was saved of this text.
    // `tokens` is the new text.
    void exchange(const Experts& experts, std::size_t slot, const Tokens& tokens);
    // All that is saved, and what slots hold; the oldest first.
    std::vector<KnownText> known(const Experts& experts) const;
    // The way back, into slots that hold nothing; a text whose slot there is not is saved. False: an expert
    // refused one.
    bool know(const Experts& experts, const std::vector<KnownText>& texts);
    void clear();
    std::size_t bytes() const { return bytes_; }
    std::size_t size() const { return saved_.size(); }

  private:
    void save(const Experts& experts, std::size_t slot, const Tokens& tokens);
    void keep(Saved saved);
    void use(std::size_t slot);

    std::size_t most_bytes_;
    std::size_t bytes_ = 0;
    std::list<Saved> saved_;
    std::vector<std::size_t> slots_by_age_;  // the one that was not used for longest first
};

}  // namespace colm
