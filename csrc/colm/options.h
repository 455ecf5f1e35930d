// Every option of a generation, once: its type, name, default and range.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "colm/option.h"
#include "colm/types.h"

namespace colm {

// How the threshold moves over the first `schedule_tokens` generated tokens, from 1 down to `threshold`.
enum class Schedule : std::uint8_t { constant, linear, cosine, exponential };
inline constexpr Names<Schedule, 4> kSchedules{{"constant", "linear", "cosine", "exponential"}};

// What happens at a deferred position.
enum class Strategy : std::uint8_t {
    defer,        // the assistant's distribution (Co-LLM, section 2)
    compose,      // (1 - p) P_base + p P_assistant with p = sigmoid(z_t)
    contrastive,  // log P_assistant - beta log P_base where P_assistant >= alpha max P_assistant
    add,          // base logits + assistant logits (FusionRoute, arXiv 2601.05106)
    proxy         // base logits + proxy_weight (tuned logits - untuned logits) (arXiv 2401.08565)
};
inline constexpr Names<Strategy, 5> kStrategies{{"defer", "compose", "contrastive", "add", "proxy"}};

// eta = threshold: defer exactly when z_t > logit(eta). 1 never defers, 0 always does.
// schedule_tokens: how many generated tokens the schedule spans.
// target_rate: move the threshold, from `threshold` on, so that this share of the text's tokens is deferred.
// hold: how many tokens the assistant writes each time that the head defers. The head is asked again after.
// leave_threshold: after a token of the assistant's, z_t is compared with this threshold. Above `threshold`
// it counts as `threshold`. Unset: `threshold`.
#define COLM_POLICY_OPTIONS(OPTION)                            \
    OPTION(double, threshold, 0.5, from(0, 1))                 \
    OPTION(Schedule, schedule, Schedule::constant, kSchedules) \
    OPTION(int, schedule_tokens, 0, from(0))                   \
    OPTION(std::optional<double>, target_rate, {}, from(0, 1)) \
    OPTION(int, hold, 1, from(1))                              \
    OPTION(std::optional<double>, leave_threshold, {}, from(0, 1))

// beta: weight of the base's log-probabilities in `contrastive`. Larger ones leave nothing of the assistant,
// and in the end no finite logit. alpha: plausibility cutoff of `contrastive`. proxy_tuned, proxy_untuned:
// the names of the experts whose logits `proxy` compares; proxy_weight: of their difference.
#define COLM_STRATEGY_OPTIONS(OPTION)                        \
    OPTION(Strategy, strategy, Strategy::defer, kStrategies) \
    OPTION(double, beta, 0.5, from(0, 1000))                 \
    OPTION(double, alpha, 0.1, above(0, 1))                  \
    OPTION(std::string, proxy_tuned, {}, no_range)           \
    OPTION(std::string, proxy_untuned, {}, no_range)         \
    OPTION(double, proxy_weight, 1.0, from(0, 1000))

using LogitBias = std::vector<std::pair<Token, float>>;

// Names, meaning and defaults are those of llama_cpp.Llama.
// temperature: 0 is greedy. top_k: 0 or less is off. top_n_sigma is llama.cpp's; 0 is off.
// penalty_last_n: the penalties look at this many of the last generated tokens.
// seed: llama.cpp takes the largest for "draw one".
// logit_bias: (token, what is added to its logit); -infinity bans the token.
// grammar: GBNF with a start symbol `root`; empty: none.
#define COLM_SAMPLING_OPTIONS(OPTION)                     \
    OPTION(float, temperature, 0.8f, from(0))             \
    OPTION(int, top_k, 40, any_number)                    \
    OPTION(float, top_n_sigma, 0.0f, from(0))             \
    OPTION(float, top_p, 0.95f, from(0, 1))               \
    OPTION(float, min_p, 0.05f, from(0, 1))               \
    OPTION(float, typical_p, 1.0f, above(0, 1))           \
    OPTION(float, repeat_penalty, 1.0f, above(0))         \
    OPTION(float, frequency_penalty, 0.0f, any_number)    \
    OPTION(float, presence_penalty, 0.0f, any_number)     \
    OPTION(int, penalty_last_n, 64, from(0, 1 << 20))     \
    OPTION(std::uint32_t, seed, 0, from(0, 4294967294.0)) \
    OPTION(LogitBias, logit_bias, {}, no_range)           \
    OPTION(std::string, grammar, {}, no_range)

// `lookahead`: draft as many tokens as pay, by the times that were measured.
inline constexpr int kAutoLookahead = -1;
// The most draft tokens that may wait for the assistant.
inline constexpr int kMostLookahead = 15;

// max_tokens: new tokens at most; -1: until the context is full.
// stop: the text ends before the first of these to appear.
// logprobs: how many of the most likely tokens to report at each position.
// lookahead: deferred tokens that the base may draft before the assistant verifies them, or kAutoLookahead.
#define COLM_TEXT_OPTIONS(OPTION)                        \
    OPTION(int, max_tokens, 128, from(-1))               \
    OPTION(std::vector<std::string>, stop, {}, no_range) \
    OPTION(int, logprobs, 0, from(0))                    \
    OPTION(int, lookahead, 0, from(kAutoLookahead, kMostLookahead))

struct PolicyOptions {
    COLM_OPTIONS(COLM_POLICY_OPTIONS)
};

struct StrategyOptions {
    COLM_OPTIONS(COLM_STRATEGY_OPTIONS)
};

struct SamplingOptions {
    COLM_OPTIONS(COLM_SAMPLING_OPTIONS)
};

struct TextOptions {
    COLM_OPTIONS(COLM_TEXT_OPTIONS)
};

struct GenerationOptions : TextOptions {
    PolicyOptions policy;
    StrategyOptions strategy;
    SamplingOptions sampling;

    template <typename Self, typename Visit>
    static void each(Self& self, Visit&& visit) {
        PolicyOptions::each(self.policy, visit);
        StrategyOptions::each(self.strategy, visit);
        SamplingOptions::each(self.sampling, visit);
        TextOptions::each(self, visit);
    }
};

}  // namespace colm
