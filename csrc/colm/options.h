// Every option of a generation, once, with its default.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "colm/types.h"

namespace colm {

// How the threshold moves over the first `schedule_tokens` generated tokens, from 1 down to `threshold`.
enum class Schedule : std::uint8_t { constant, linear, cosine, exponential };

// What happens at a deferred position.
enum class Strategy : std::uint8_t {
    defer,       // the assistant's distribution (Co-LLM, section 2)
    compose,     // (1 - p) P_base + p P_assistant with p = sigmoid(z_t)
    contrastive  // log P_assistant - beta log P_base where P_assistant >= alpha max P_assistant
};

struct PolicyOptions {
    // eta in [0, 1]: defer exactly when z_t > logit(eta). 1 never defers, 0 always does.
    double threshold = 0.5;
    Schedule schedule = Schedule::constant;
    // K: how many generated tokens the schedule spans.
    int schedule_tokens = 0;
    // r in [0, 1]: move the threshold, from `threshold` on, so that this share of the text's tokens is
    // deferred.
    std::optional<double> target_rate = std::nullopt;
    // How many tokens the assistant writes each time that the head defers, >= 1. The head is asked again
    // after them.
    int hold = 1;
    // In [0, 1]: after a token of the assistant's, z_t is compared with this threshold. Above `threshold` it
    // counts as `threshold`. Unset: `threshold`.
    std::optional<double> leave_threshold = std::nullopt;
};

struct StrategyOptions {
    Strategy strategy = Strategy::defer;
    // Weight of the base's log-probabilities in `contrastive`, in [0, 1000].
    double beta = 0.5;
    // Plausibility cutoff of `contrastive`, in (0, 1].
    double alpha = 0.1;
};

// Names, meaning and defaults are those of llama_cpp.Llama.
struct SamplingOptions {
    float temperature = 0.8f;  // 0 is greedy
    int top_k = 40;            // 0 or less: off
    float top_p = 0.95f;
    float min_p = 0.05f;
    float typical_p = 1.0f;
    float repeat_penalty = 1.0f;
    float frequency_penalty = 0.0f;
    float presence_penalty = 0.0f;
    // The penalties look at this many of the last generated tokens.
    int penalty_last_n = 64;
    std::uint32_t seed = 0;
    // (token, bias added to its logit); -infinity bans the token.
    std::vector<std::pair<Token, float>> logit_bias;
    // GBNF, start symbol `root`; empty: none.
    std::string grammar;
};

// `lookahead`: draft as many tokens as pay, by the times that were measured.
inline constexpr int kAutoLookahead = -1;
// The most draft tokens that may wait for the assistant.
inline constexpr int kMostLookahead = 15;

struct GenerationOptions {
    PolicyOptions policy;
    StrategyOptions strategy;
    SamplingOptions sampling;
    // New tokens at most, >= 0; -1: until the context is full.
    int max_tokens = 128;
    // The text ends before the first of these to appear.
    std::vector<std::string> stop;
    // How many of the most likely tokens to report at each position.
    int n_logprobs = 0;
    // Deferred tokens that the base may draft before the assistant verifies them: 0 to 15, or
    // kAutoLookahead.
    int lookahead = kAutoLookahead;
};

}  // namespace colm
