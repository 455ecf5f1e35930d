// What an expert knew of a text, outside its slot: plain values, which may be written to a file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "colm/types.h"

namespace colm {

using Bytes = std::vector<std::uint8_t>;

// How many tokens at the beginning are the same, `most` at most.
std::size_t n_common(const std::vector<Token>& a, const std::vector<Token>& b, std::size_t most);

// The way back to the first `n_tokens` tokens of a text, for a model that has no other.
struct Checkpoint {
    std::size_t n_tokens = 0;
    std::shared_ptr<const Bytes> state;
};

// Those of one text, ascending.
using Checkpoints = std::vector<Checkpoint>;

// The last one within the first `n_tokens` tokens; null where there is none.
const Checkpoint* last_within(const Checkpoints& checkpoints, std::size_t n_tokens);
std::size_t bytes_of(const Checkpoints& checkpoints);

struct SavedSlot {
    std::vector<Token> held;  // the tokens read
    Bytes state;              // after the last of them
    Checkpoints checkpoints;
    bool goes_back = true;  // to any of its tokens, without checkpoints

    std::size_t bytes() const;
    // How many tokens at the beginning of `tokens` need not be read again once it is restored.
    std::size_t n_known(const std::vector<Token>& tokens) const;
};

// Likewise of a slot: what `held` is worth to a text that begins with `tokens`, whose last one is always
// read.
std::size_t n_known(const std::vector<Token>& held, const Checkpoints& checkpoints, bool goes_back,
                    const std::vector<Token>& tokens);

}  // namespace colm
