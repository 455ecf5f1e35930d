// Models and heads for the loop that tell who wrote a token, and what the models were asked.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "world.h"

using Log = std::vector<std::string>;

// Defers the token at these positions (of the text, prompt included) alone.
inline HeadPtr defer_at(std::set<std::size_t> positions) {
    return std::make_shared<TestHead>([positions = std::move(positions)](const colm::HeadInput& input) {
        return positions.count(input.position) > 0 ? 1.0 : -1.0;
    });
}

// Wants the token that is `step` further on than the last.
inline FakeModel::Function counting(colm::Token step) {
    return [step](const FakeModel::Text& text) {
        std::vector<float> logits(kVocab, 0.0f);
        logits[static_cast<std::size_t>(text.back() + step) % kVocab] = 9.0f;
        return logits;
    };
}

// The base counts by one, the assistant by two: tokens tell who wrote them.
inline Models counting_models() {
    Models models;
    models.base = counting(1);
    models.assistant = counting(2);
    return models;
}

inline Models nearly_alike(std::uint32_t seed, double share) {
    Models models;
    models.base = random_function(seed, kVocab);
    models.assistant = nearly(models.base, seed + 7, kVocab, share);
    return models;
}

inline Limits one_slot() {
    Limits limits;
    limits.n_slots = 1;
    return limits;
}

// Many or few slots, batches smaller than texts, and contexts that texts fill.
inline Limits random_limits(reference::Random& random, std::size_t most_slots, std::size_t least_ctx) {
    Limits limits;
    limits.n_slots = 1 + random.below(most_slots);
    limits.n_outputs = 2 + random.below(15);
    limits.base_batch = limits.n_slots + random.below(12);
    limits.assistant_batch = 2 + random.below(20);
    limits.n_ctx = least_ctx + random.below(30);
    limits.cache_bytes = random.chance(0.5) ? 400 : 0;
    limits.can_rewind = random.chance(0.8);
    return limits;
}

// Writes all texts. Some come in the middle of others, and one may be cancelled there: the result says which.
inline std::optional<std::size_t> write_in_disorder(World& w, const std::vector<Job>& jobs,
                                                    reference::Random& random, double share_cancelled) {
    const std::size_t n_first = 1 + random.below(jobs.size());
    w.add(jobs, 0, n_first);
    for (std::size_t n = random.below(12); n > 0; --n) w.step();
    w.add(jobs, n_first);
    std::optional<std::size_t> cancelled;
    if (random.chance(share_cancelled)) {
        for (std::size_t n = random.below(6); n > 0; --n) w.step();
        cancelled = random.below(jobs.size());
        w.cancel(*cancelled);
    }
    w.run();
    return cancelled;
}

// What there was in random rounds.
struct Seen {
    std::map<colm::FinishReason, int> reasons;
    std::map<colm::ExpertId, int> experts;  // of the tokens of texts that were not cancelled
    std::size_t n_drafted = 0;
    std::size_t n_rejected = 0;

    void note(const Written& got) {
        ++reasons[got.reason];
        n_drafted += got.sequence.stats.n_drafted;
        n_rejected += got.sequence.stats.n_drafted - got.sequence.stats.n_accepted;
        if (got.reason == colm::FinishReason::cancelled) return;
        for (const auto& [step, text] : got.steps) ++experts[step.expert];
    }
    void require_all() {
        for (const auto reason :
             {colm::FinishReason::eos, colm::FinishReason::stop, colm::FinishReason::length,
              colm::FinishReason::failed, colm::FinishReason::cancelled})
            REQUIRE(reasons[reason] > reference::rounds(5));
        REQUIRE(n_drafted > reference::rounds(200));
        REQUIRE(n_rejected > reference::rounds(50));
    }
};

// Texts that come and go in the middle of others are what each is alone; one that was cancelled is a
// beginning of that. `check` compares a job, what was written and what it is alone.
template <typename Check>
void check_round(World& w, const Models& models, const std::vector<Job>& jobs, reference::Random& random,
                 double share_cancelled, Seen& seen, const Check& check) {
    const std::optional<std::size_t> cancelled = write_in_disorder(w, jobs, random, share_cancelled);
    for (std::size_t i = 0; i < jobs.size(); ++i) {
        const Written& got = w.written.at(i);
        const Written alone = write_alone(models, jobs[i], w.loop->n_ctx());
        seen.note(got);
        if (got.reason != colm::FinishReason::cancelled) {
            check(jobs[i], got, alone);
            continue;
        }
        REQUIRE_EQ(i, *cancelled);
        const FakeModel::Text& tokens = got.sequence.tokens;
        REQUIRE(tokens.size() <= alone.sequence.tokens.size());
        REQUIRE(std::equal(tokens.begin(), tokens.end(), alone.sequence.tokens.begin()));
    }
}

// The batches that a model was given.
inline Log batches(const FakeModel& model) {
    Log all;
    for (const std::string& line : model.log)
        if (line.find('@') != std::string::npos) all.push_back(line);
    return all;
}
