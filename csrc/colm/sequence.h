// One text: its tokens and what was counted while it was written.
#pragma once

#include <cstddef>
#include <vector>

#include "colm/types.h"

namespace colm {

// Counts and times of one generation. Times are wall-clock seconds.
struct Stats {
    std::size_t n_deferred = 0;        // tokens on the assistant's turn, an ending token included
    std::size_t base_steps = 0;        // times that the base gave a distribution
    std::size_t assistant_calls = 0;   // times that the assistant was asked
    std::size_t n_drafted = 0;         // look-ahead: draft tokens that the assistant verified,
    std::size_t n_accepted = 0;        // and how many of them it accepted
    bool lookahead = false;            // whether draft tokens were possible
    std::size_t base_tokens_read = 0;  // tokens that each model evaluated, prompt included
    std::size_t assistant_tokens_read = 0;
    double prefill_s =
        0.0;  // reading the prompt: until the base's first distribution, plus the assistant's first call
    double decode_s = 0.0;  // everything after that
};

struct Sequence {
    std::vector<Token> tokens;  // prompt, then what was generated
    std::size_t n_prompt = 0;
    Stats stats;
    std::vector<DecodeCall> calls;

    std::size_t n_generated() const { return tokens.size() - n_prompt; }
};

// Tokens that the decodes from the `from`-th on evaluated.
inline std::size_t tokens_read(const std::vector<DecodeCall>& calls, std::size_t from) {
    std::size_t n = 0;
    for (std::size_t i = from; i < calls.size(); ++i) n += static_cast<std::size_t>(calls[i].n_tokens);
    return n;
}

}  // namespace colm
