// The plain values that pass between the parts of the method.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace colm {

using Token = std::int32_t;
inline constexpr Token kNoToken = -1;

// Which expert: 0 is the base, whose distribution the head looks at, 1 to K are the assistants.
using ExpertId = std::uint8_t;
inline constexpr ExpertId kBase = 0;
// Beside the base: one digit each.
inline constexpr std::size_t kMostExperts = 9;

// `failed` follows an exception: the text cannot be continued.
enum class FinishReason : std::uint8_t { none, eos, stop, length, cancelled, failed };

// One of the most likely tokens at a position, for `logprobs=`.
struct TopLogprob {
    Token token = kNoToken;
    double logprob = 0.0;
};

// What the engine decided at one position.
struct Step {
    Token token = kNoToken;  // of the vocabulary of `expert`
    // Whose turn it was. With a mixing strategy (compose, contrastive) the base took part in an assistant's.
    ExpertId expert = kBase;
    // z_t, the log-odds that an expert other than the base writes; NaN where the head was not asked, because
    // one held its turn.
    double defer_logit = 0.0;
    double threshold = 0.0;  // eta in force at this position
    double logprob = 0.0;    // natural log, under the routed distribution before temperature and truncation
    std::vector<TopLogprob> top_logprobs;  // descending; empty unless asked for
    // Written by who wrote last, because the text could not be handed over there (shared_text.h).
    bool waited = false;
};

// One call of llama_decode that the engine made. The list of them is the exact schedule of a generation.
struct DecodeCall {
    ExpertId expert = kBase;
    std::int32_t position = 0;  // of the first token in the batch
    std::int32_t n_tokens = 0;
    bool outputs = false;  // logits of the last token were asked for
    bool hidden = false;   // and its hidden state
};

// A borrowed, contiguous run of values (std::span arrives with C++20).
template <typename T>
struct View {
    T* data = nullptr;
    std::size_t size = 0;

    T& operator[](std::size_t i) const { return data[i]; }
    T* begin() const { return data; }
    T* end() const { return data + size; }
};

}  // namespace colm
