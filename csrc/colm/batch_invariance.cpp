#include "colm/batch_invariance.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace colm {
namespace {

// A cache is read in steps of 256 cells, and attention over 512 of them or more is split between threads
// where a token is alone. The tokens compared stand where it has 512, and beyond, so that some read more
// cells beside others than alone.
constexpr std::size_t kDepth = 504;

bool same_bits(const float* values, const std::vector<float>& expected) {
    return std::memcmp(values, expected.data(), expected.size() * sizeof(float)) == 0;
}

// What a token gives when it is read alone.
struct Alone {
    std::vector<float> logits;
    std::vector<float> hidden;

    Alone(const Output& output, std::size_t n_embd)
        : logits(output.logits.begin(), output.logits.end()), hidden(output.hidden, output.hidden + n_embd) {}
    bool equals(const Output& output) const {
        return same_bits(output.logits.data, logits) && same_bits(output.hidden, hidden);
    }
};

}  // namespace

std::size_t invariant_batch(LanguageModel& model, std::size_t most, Interrupt& interrupt) {
    most = std::min({most, model.n_batch(), model.n_outputs()});
    if (most < 2 || !model.can_rewind() || model.n_ctx() < most + 2) return 1;
    const std::size_t depth = std::min(kDepth, model.n_ctx() - most - 1);
    std::vector<Token> tokens(depth + most + 1);
    for (std::size_t i = 0; i < tokens.size(); ++i)
        tokens[i] = static_cast<Token>((i * 7919 + 13) % model.n_vocab());
    const auto read = [&](std::size_t begin, std::size_t n, bool outputs, bool hidden) {
        std::vector<BatchToken> batch;
        for (std::size_t i = begin; i < begin + n; ++i) batch.push_back({tokens[i], i, 0, outputs});
        model.eval_batch({batch.data(), n}, hidden, interrupt);
    };

    model.clear();
    for (std::size_t i = 0; i < depth; i += model.n_batch())
        read(i, std::min(model.n_batch(), depth - i), false, false);
    std::vector<Alone> alone;
    for (std::size_t i = 0; i <= most; ++i) {
        read(depth + i, 1, true, true);
        alone.emplace_back(model.output(0), model.n_embd());
    }
    std::size_t n = 1;
    while (n < most && model.rewind(0, depth) == depth) {
        const std::size_t size = n + 1;
        read(depth, size, true, true);
        bool same = true;
        for (std::size_t i = 0; i < size; ++i) same = same && alone[i].equals(model.output(i));
        // The token behind them sees whether they left the same in the cache.
        read(depth + size, 1, true, false);
        if (!same || !same_bits(model.output(0).logits.data, alone[size].logits)) break;
        n = size;
    }
    model.clear();
    return n;
}

}  // namespace colm
