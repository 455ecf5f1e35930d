// What tests of experts elsewhere have in common: tables as such experts, texts, and what they are compared
// with.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "colm/remote_expert.h"
#include "loop_models.h"

// The likeliest of these logits, as log-probabilities, and the probability of the others.
inline colm::Likeliest likeliest_of(const std::vector<float>& logits, std::size_t n) {
    const double norm = reference::log_sum(logits);
    colm::Likeliest found{colm::largest({logits.data(), logits.size()}, n), 1.0};
    for (colm::Candidate& candidate : found.candidates) {
        candidate.logit = static_cast<float>(candidate.logit - norm);
        found.tail -= std::exp(static_cast<double>(candidate.logit));
    }
    found.tail = std::max(0.0, found.tail);
    return found;
}

inline constexpr std::size_t kFarTokens = 24;

inline Job far_job(std::uint32_t seed, int lookahead, const char* head = "random") {
    Job job;
    job.prompt = {static_cast<colm::Token>(10 + seed), 4};
    job.head = named(head);
    job.seed = seed;
    job.max_tokens = static_cast<int>(kFarTokens);
    job.banned = {kEnd};
    job.lookahead = lookahead;
    return job;
}

// Up to five, of any kind.
inline std::vector<Job> far_jobs(reference::Random& random) {
    std::vector<Job> jobs;
    for (std::uint32_t i = 0; i < 1 + random.below(5); ++i) {
        const int lookaheads[] = {0, 1, 2, 8, 15, colm::kAutoLookahead};
        const char* const heads[] = {"random", "confidence", "always"};
        jobs.push_back(far_job(i, lookaheads[random.below(6)], heads[random.below(3)]));
        jobs.back().constrained = random.chance(0.3);
        if (random.chance(0.2)) jobs.back().policy.hold = 3;
    }
    return jobs;
}

// Log-probabilities apart, which are rounded otherwise, and alternatives beyond those that it names.
inline void check_like(const Written& got, const Written& expected) {
    REQUIRE_EQ(got.error, expected.error);
    REQUIRE_EQ(got.sequence.tokens, expected.sequence.tokens);
    REQUIRE_EQ(got.steps.size(), expected.steps.size());
    for (std::size_t i = 0; i < got.steps.size(); ++i) {
        REQUIRE_EQ(got.steps[i].step.expert, expected.steps[i].step.expert);
        REQUIRE_EQ(got.steps[i].step.logprob, about(expected.steps[i].step.logprob, 1e-5));
    }
}

inline void check_far(const Job&, const Written& got, const Written& alone) { check_like(got, alone); }
