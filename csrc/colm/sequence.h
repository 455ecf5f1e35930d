// One text: its tokens and what was counted while it was written.
#pragma once

#include <cstddef>
#include <vector>

#include "colm/types.h"

namespace colm {

// What one expert did for a text.
struct Work {
    std::size_t calls = 0;        // times that it was asked; of the base, times that it gave a distribution
    std::size_t tokens = 0;       // written on its turn, an ending token included
    std::size_t tokens_read = 0;  // evaluated, prompt included
    double seconds = 0.0;         // of its batches that read this text
    // Unlike vocabularies: tokens that it was asked about, and that changed when others wrote behind them.
    std::size_t tokens_reread = 0;
    // Of an expert that names the likeliest tokens alone: how often, the most that it named, and the
    // probability of all others, added up.
    std::size_t n_truncated = 0;
    std::size_t n_named = 0;
    double tail = 0.0;
    std::size_t failures = 0;  // after one the text goes on without it
};

// Counts and times of one generation. Times are wall-clock seconds.
struct Stats {
    std::size_t n_deferred = 0;  // tokens on another's turn than the base's, an ending token included
    std::size_t n_drafted = 0;   // look-ahead: draft tokens that were verified,
    std::size_t n_accepted = 0;  // and how many of them were accepted
    bool lookahead = false;      // whether draft tokens were possible
    std::size_t n_waited = 0;    // tokens by who wrote before, because a hand-over had to wait
    double prefill_s = 0.0;      // until the base's first distribution, plus each expert's first call
    double decode_s = 0.0;       // everything after that
    std::vector<Work> work;      // by expert, as far as any did something

    Work& of(ExpertId expert) {
        if (work.size() <= expert) work.resize(expert + 1U);
        return work[expert];
    }
    Work of(ExpertId expert) const { return expert < work.size() ? work[expert] : Work{}; }
};

struct Sequence {
    // Prompt, then what was generated: each token in the vocabulary of who wrote it.
    std::vector<Token> tokens;
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
