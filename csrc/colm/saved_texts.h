// What slots held when other texts took them, up to a limit of bytes: so that two long chats that alternate
// are not read again each time.
#pragma once

#include <cstddef>
#include <list>
#include <memory>
#include <vector>

#include "colm/expert.h"

namespace colm {

class SavedTexts {
  public:
    explicit SavedTexts(std::size_t most_bytes) : most_bytes_(most_bytes) {}

    // Before a new text takes `slot`: saves what is lost there, and restores what was saved of this text.
    // `tokens` is the new text.
    void exchange(const std::vector<std::unique_ptr<Expert>>& experts, std::size_t slot,
                  const std::vector<Token>& tokens);
    void clear();
    std::size_t bytes() const { return bytes_; }
    std::size_t size() const { return saved_.size(); }

  private:
    using Saved = std::vector<std::unique_ptr<SavedSlot>>;  // by expert; null where one had nothing

    void save(const std::vector<std::unique_ptr<Expert>>& experts, std::size_t slot,
              const std::vector<Token>& tokens);

    std::size_t most_bytes_;
    std::size_t bytes_ = 0;
    std::list<Saved> saved_;  // the oldest first
};

}  // namespace colm
