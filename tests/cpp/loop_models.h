// Models and heads for the loop that tell who wrote a token, and what the models were asked.
#pragma once

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

// The batches that a model was given.
inline Log batches(const FakeModel& model) {
    Log all;
    for (const std::string& line : model.log)
        if (line.find('@') != std::string::npos) all.push_back(line);
    return all;
}
