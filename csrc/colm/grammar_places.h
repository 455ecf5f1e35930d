// Places in a grammar that a text may have reached, and collections of them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

namespace colm::grammar {

inline constexpr std::uint32_t kEnd = 0;  // the place behind all alternatives: code[0]

// A place in the grammar's code and what follows its rule. In a state: what is read next. In a continuation:
// where reading goes on. `{kEnd, 0}` in either says that the text may end.
struct Item {
    std::uint32_t at;
    std::uint32_t then;  // continuation

    std::uint64_t key() const { return std::uint64_t{at} << 32 | then; }
    bool operator==(const Item& other) const { return key() == other.key(); }
    bool operator<(const Item& other) const { return key() < other.key(); }
};
using Items = std::vector<Item>;
inline constexpr Item kMayEnd{kEnd, 0};

inline std::uint64_t mixed(std::uint64_t x) {
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93U;
    return x ^ x >> 32;
}

struct HashItems {
    std::size_t operator()(const Items& items) const {
        std::uint64_t hash = items.size();
        for (const Item& item : items) hash = mixed(hash ^ item.key());
        return static_cast<std::size_t>(hash);
    }
};

// Equal lists are one, with a number.
class Lists {
  public:
    std::pair<std::uint32_t, bool> add(Items items) {
        const auto next = static_cast<std::uint32_t>(by_number_.size());
        const auto [found, is_new] = numbers_.emplace(std::move(items), next);
        if (is_new) by_number_.push_back(&found->first);
        return {found->second, is_new};
    }
    const Items& operator[](std::uint32_t number) const { return *by_number_[number]; }

  private:
    std::unordered_map<Items, std::uint32_t, HashItems> numbers_;
    std::vector<const Items*> by_number_;
};

// Which items were met; emptied for every character.
class Seen {
  public:
    void clear() {
        if (slots_.size() > 64 && slots_.size() > 16 * size_)
            slots_.assign(64, kFree);
        else if (size_ > 0)
            std::fill(slots_.begin(), slots_.end(), kFree);
        size_ = 0;
    }
    bool insert(std::uint64_t key) {
        if (2 * size_ >= slots_.size()) grow();
        if (!put(key)) return false;
        ++size_;
        return true;
    }

  private:
    static constexpr std::uint64_t kFree = ~std::uint64_t{0};

    bool put(std::uint64_t key) {
        std::size_t i = static_cast<std::size_t>(mixed(key)) & (slots_.size() - 1);
        for (; slots_[i] != kFree; i = (i + 1) & (slots_.size() - 1))
            if (slots_[i] == key) return false;
        slots_[i] = key;
        return true;
    }
    void grow() {
        std::vector<std::uint64_t> old(std::max<std::size_t>(64, 2 * slots_.size()), kFree);
        old.swap(slots_);
        for (const std::uint64_t key : old)
            if (key != kFree) put(key);
    }

    std::vector<std::uint64_t> slots_;
    std::size_t size_ = 0;
};

}  // namespace colm::grammar
