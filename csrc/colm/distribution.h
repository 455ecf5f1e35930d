// One pass over a model's logits: everything that routing, sampling and reporting need to know of them.
#pragma once

#include <cstddef>
#include <vector>

#include "colm/types.h"

namespace colm {

struct Distribution {
    Token top = kNoToken;         // the first of the largest logits
    float top_logit = 0.0f;       // its logit
    double log_normalizer = 0.0;  // log sum exp(logit)
    double log_rest = 0.0;        // log sum exp(logit) over all ids but the top; no less than top_logit - 87
    double entropy = 0.0;         // nats
    std::vector<float> top_logits;  // the k largest, descending

    double top_logprob() const { return top_logit - log_normalizer; }
    // log p1 - log(1 - p1), from the unnormalised sums: exact where 1 - p1 would cancel.
    double log_odds() const { return top_logit - log_rest; }
};

struct Candidate {
    Token token = kNoToken;
    float logit = 0.0f;
};

// Summarises `logits`; an id whose logit is -inf is not part of the distribution. `k` largest logits are
// kept. Throws GenerationError where every logit is -inf, or one is NaN or +inf (a damaged model).
Distribution summarize(View<const float> logits, std::size_t k = 0);

// The same of the likeliest tokens alone, by log-probability, descending, and the probability of all others
// together, which counts as one token. Throws GenerationError where there are none, or one is no probability.
Distribution summarize(View<const Candidate> likeliest, double tail, std::size_t k = 0);

// The `n` largest logits above -inf, descending; of equal ones the smaller id first.
std::vector<Candidate> largest(View<const float> logits, std::size_t n);

// The `n` likeliest tokens, descending; fewer where fewer are possible.
std::vector<TopLogprob> top_logprobs(View<const float> logits, const Distribution& distribution,
                                     std::size_t n);

}  // namespace colm
