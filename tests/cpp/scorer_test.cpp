#include "colm/scorer.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "colm/error.h"
#include "fake_model.h"
#include "reference.h"

using colm::Interrupt;
using colm::ScoredText;
using colm::Scorer;
using colm::Scores;
using colm::Token;

namespace {

using Text = FakeModel::Text;

constexpr std::size_t kSmallVocab = FakeModelOptions{}.n_vocab;
constexpr std::size_t kEmbd = FakeModelOptions{}.n_embd;

ScoredText text_of(Text tokens, std::vector<std::uint8_t> scored) {
    return {std::move(tokens), std::move(scored)};
}

std::vector<ScoredText> random_texts(reference::Random& random, std::size_t n, std::size_t longest) {
    std::vector<ScoredText> texts;
    for (std::size_t i = 0; i < n; ++i) {
        ScoredText text;
        const std::size_t length = 1 + random.below(longest);
        for (std::size_t t = 0; t < length; ++t) {
            text.tokens.push_back(static_cast<Token>(random.below(kSmallVocab - 2)));
            text.scored.push_back(t > 0 && random.below(3) > 0 ? 1 : 0);
        }
        texts.push_back(std::move(text));
    }
    return texts;
}

// One text at a time, one token at a time, in double precision.
void compare(const FakeModel& model, const std::vector<ScoredText>& texts, const Scores& scores,
             std::size_t n_shared, const std::vector<Token>& blocked, std::size_t top_k, bool hidden,
             const std::vector<Token>& probes) {
    std::size_t row = 0;
    for (const ScoredText& text : texts)
        for (std::size_t t = 1; t < text.tokens.size(); ++t) {
            if (text.scored[t] == 0) continue;
            const Text before(text.tokens.begin(), text.tokens.begin() + static_cast<std::ptrdiff_t>(t));
            std::vector<float> logits = model.logits(before);
            logits.resize(n_shared);
            for (const Token token : blocked) logits[static_cast<std::size_t>(token)] = -reference::kInf;
            const double norm = reference::log_sum(logits);
            std::vector<double> log_p;
            for (const float logit : logits) log_p.push_back(logit - norm);
            REQUIRE_EQ(scores.logprob[row], about(log_p[static_cast<std::size_t>(text.tokens[t])], 1e-5));
            const std::size_t top = reference::argmax(logits);
            REQUIRE_EQ(static_cast<std::size_t>(scores.top[row]), top);
            REQUIRE_EQ(scores.top_logprob[row], about(log_p[top], 1e-5));
            REQUIRE_EQ(scores.entropy[row], about(reference::entropy(logits), 1e-5));
            REQUIRE_EQ(scores.log_odds[row], about(logits[top] - reference::log_sum(logits, top), 1e-4));
            std::vector<double> sorted = log_p;
            std::sort(sorted.rbegin(), sorted.rend());
            for (std::size_t k = 0; k < top_k; ++k)
                REQUIRE_EQ(scores.top_k_logprobs[row * top_k + k], about(sorted[k], 1e-5));
            if (!probes.empty())
                REQUIRE_EQ(scores.probe_logprob[row],
                           about(log_p[static_cast<std::size_t>(probes[row])], 1e-5));
            if (hidden)
                for (std::size_t d = 0; d < kEmbd; ++d)
                    REQUIRE_EQ(scores.hidden[row * kEmbd + d], model.hidden(before)[d]);
            ++row;
        }
    REQUIRE_EQ(scores.logprob.size(), row);
}

}  // namespace

TEST_CASE("scorer: gives what reading token by token gives") {
    reference::Random random(5);
    for (std::uint32_t round = 0; round < 60; ++round) {
        FakeModelOptions limits;
        limits.n_batch = 1 + random.below(10);
        limits.n_outputs = 1 + random.below(limits.n_batch);
        const auto model = random_model(round, limits);
        const std::size_t n_shared = kSmallVocab - 1;
        const std::vector<Token> blocked = {7};
        Scorer scorer(model, n_shared, blocked);
        const std::vector<ScoredText> texts = random_texts(random, 1 + random.below(4), 15);
        std::size_t n = 0;
        for (const ScoredText& text : texts)
            for (const std::uint8_t scored : text.scored) n += scored;
        std::vector<Token> probes;
        for (std::size_t i = 0; i < n; ++i) probes.push_back(static_cast<Token>(random.below(7)));
        Scorer::Wanted wanted;
        wanted.top_k = random.below(4);
        wanted.hidden = random.below(2) == 1;
        wanted.probes = {probes.data(), probes.size()};
        Interrupt interrupt;
        const Scores scores = scorer.score(texts, wanted, interrupt);
        compare(*model, texts, scores, n_shared, blocked, wanted.top_k, wanted.hidden, probes);
        // An output for each scored token and no other; nothing is left in the context.
        REQUIRE_EQ(model->n_outputs_made, n);
        REQUIRE_EQ(scores.n_calls, model->sizes.size());
        REQUIRE_EQ(model->n_clears, 2);
    }
}

TEST_CASE("scorer: gives z, the likeliest tokens and several probes") {
    reference::Random random(9);
    for (std::uint32_t round = 0; round < 30; ++round) {
        FakeModelOptions limits;
        limits.n_batch = 1 + random.below(10);
        limits.n_outputs = 1 + random.below(limits.n_batch);
        const auto model = random_model(round, limits);
        const Token excluded = 3;
        Scorer scorer(model, kSmallVocab, {7});
        const std::vector<ScoredText> texts = random_texts(random, 1 + random.below(4), 15);
        std::size_t n = 0;
        for (const ScoredText& text : texts)
            for (const std::uint8_t scored : text.scored) n += scored;
        const colm::TokenHead head(excluded);  // its logit is z, and it is never chosen
        Scorer::Wanted wanted;
        wanted.n_likeliest = 3;
        wanted.n_probes = 2;
        std::vector<Token> probes;
        for (std::size_t i = 0; i < 2 * n; ++i)
            probes.push_back(i % 5 == 0 ? colm::kNoToken : static_cast<Token>(random.below(3)));
        wanted.probes = {probes.data(), probes.size()};
        wanted.head = &head;
        wanted.excluded = excluded;
        Interrupt interrupt;
        const Scores scores = scorer.score(texts, wanted, interrupt);
        std::size_t row = 0;
        for (const ScoredText& text : texts)
            for (std::size_t t = 1; t < text.tokens.size(); ++t) {
                if (text.scored[t] == 0) continue;
                const Text before(text.tokens.begin(), text.tokens.begin() + static_cast<std::ptrdiff_t>(t));
                std::vector<float> logits = model->logits(before);
                REQUIRE_EQ(scores.defer_logit[row], about(logits[excluded], 1e-5));
                logits.resize(kSmallVocab);
                logits[7] = logits[excluded] = -reference::kInf;
                const double norm = reference::log_sum(logits);
                for (std::size_t k = 0; k < 3; ++k) {
                    const std::size_t top = reference::argmax(logits);
                    REQUIRE_EQ(static_cast<std::size_t>(scores.likeliest[3 * row + k]), top);
                    REQUIRE_EQ(scores.likeliest_logprob[3 * row + k], about(logits[top] - norm, 1e-5));
                    logits[top] = -reference::kInf;
                }
                logits = model->logits(before);
                for (std::size_t k = 2 * row; k < 2 * row + 2; ++k)
                    REQUIRE_EQ(scores.probe_logprob[k],
                               probes[k] == colm::kNoToken
                                   ? about(-reference::kInf, 1e-5)
                                   : about(logits[static_cast<std::size_t>(probes[k])] - norm, 1e-5));
                ++row;
            }
        REQUIRE_EQ(scores.defer_logit.size(), row);
    }
}

TEST_CASE("scorer: reads prompts together and completions together") {
    FakeModelOptions limits;
    limits.n_batch = 100;
    limits.n_outputs = 100;
    const auto model = random_model(1, limits);
    Scorer scorer(model, kSmallVocab, {});
    Interrupt interrupt;
    // Of the first text 3 tokens lead up, 2 are outputs and the last is not read; of the second 1, 3 and the
    // last.
    scorer.score({text_of({1, 2, 3, 4, 5, 6}, {0, 0, 0, 0, 1, 1}), text_of({1, 2, 3, 4, 5}, {0, 0, 1, 1, 1})},
                 {}, interrupt);
    REQUIRE_EQ(model->sizes, (std::vector<std::size_t>{4, 5}));
}

TEST_CASE("scorer: takes turns of several") {
    FakeModelOptions limits;
    limits.n_batch = 100;
    limits.n_outputs = 100;
    const auto model = random_model(1, limits);
    Scorer scorer(model, kSmallVocab, {});
    Interrupt interrupt;
    const std::vector<ScoredText> texts = {text_of({1, 2, 3, 4, 5, 6}, {0, 1, 0, 0, 1, 0})};
    const Scores scores = scorer.score(texts, {}, interrupt);
    REQUIRE_EQ(model->sizes,
               (std::vector<std::size_t>{1, 2, 1}));  // what follows the last scored token is not read
    compare(*model, texts, scores, kSmallVocab, {}, 0, false, {});
}

TEST_CASE("scorer: of texts without scored tokens reads nothing") {
    const auto model = random_model(1);
    Scorer scorer(model, kSmallVocab, {});
    Interrupt interrupt;
    REQUIRE_EQ(scorer.score({text_of({1, 2}, {0, 0}), text_of({}, {})}, {}, interrupt).logprob.size(), 0U);
    REQUIRE(model->sizes.empty());
}

TEST_CASE("scorer: refuses what does not fit") {
    const auto model = random_model(1);
    Scorer scorer(model, 8, {5});
    Interrupt interrupt;
    const auto score = [&](const std::vector<ScoredText>& texts) { scorer.score(texts, {}, interrupt); };
    REQUIRE_THROWS_WITH_AS(score(std::vector<ScoredText>(5, text_of({1, 2}, {0, 1}))),
                           doctest::Contains("5 texts"), colm::ContextFull);
    REQUIRE_THROWS_WITH_AS(score({text_of(Text(65, 1), std::vector<std::uint8_t>(65, 0))}),
                           doctest::Contains("65 tokens"), colm::ContextFull);
    REQUIRE_THROWS_WITH_AS(score({text_of({1, 2}, {1, 1})}), doctest::Contains("first token"),
                           colm::OptionError);
    REQUIRE_THROWS_WITH_AS(score({text_of({1, 2}, {0})}), doctest::Contains("one for each"),
                           colm::OptionError);
    for (const Token token : {-1, 5, 8, 9})
        REQUIRE_THROWS_WITH_AS(score({text_of({1, token}, {0, 1})}), doctest::Contains("do not share"),
                               colm::TokenizeError);
    Scorer::Wanted wanted;
    const std::vector<Token> probes = {1, 2};
    wanted.probes = {probes.data(), probes.size()};
    REQUIRE_THROWS_WITH_AS(scorer.score({text_of({1, 2}, {0, 1})}, wanted, interrupt),
                           doctest::Contains("2 probes"), colm::OptionError);
}

TEST_CASE("scorer: names text and token of damaged logits") {
    const auto model =
        std::make_shared<FakeModel>(FakeModelOptions{}, damaged_at(random_function(1, kSmallVocab), {4, 5}));
    Scorer scorer(model, kSmallVocab, {});
    Interrupt interrupt;
    REQUIRE_THROWS_WITH_AS(
        scorer.score({text_of({1, 2, 3}, {0, 1, 1}), text_of({4, 5, 6}, {0, 1, 1})}, {}, interrupt),
        doctest::Contains("text 1, token 2"), colm::GenerationError);
}

TEST_CASE("scorer: stops when asked to") {
    const auto model = random_model(1);
    Scorer scorer(model, kSmallVocab, {});
    Interrupt interrupt;
    interrupt.request();
    REQUIRE_THROWS_AS(scorer.score({text_of({1, 2, 3}, {0, 1, 1})}, {}, interrupt), colm::Cancelled);
    REQUIRE(model->sizes.empty());
}
