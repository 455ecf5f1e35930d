#include "colm/distribution.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "check.h"
#include "colm/error.h"
#include "reference.h"

using colm::Distribution;
using colm::GenerationError;
using colm::summarize;
using reference::kInf;
using reference::kNan;
using reference::Random;
using reference::view;

namespace {

// Around the sizes of a block (1024) and of a vector (8).
const std::vector<std::size_t> kSizes = {2, 7, 8, 9, 1023, 1024, 1025, 1031, 2048, 5000};

void check_against_reference(const std::vector<float>& logits) {
    const std::size_t top = reference::argmax(logits);
    const Distribution d = summarize(view(logits), 5);
    REQUIRE_EQ(d.top, top);
    REQUIRE_EQ(d.top_logit, logits[top]);
    REQUIRE_EQ(d.log_normalizer, about(reference::log_sum(logits), 2e-6));
    REQUIRE_EQ(d.entropy, about(reference::entropy(logits), 2e-5));
    // Tolerance: logits are floats, and so are their differences. Near the floor, what lies below it may
    // count too.
    const double rest = reference::log_sum(logits, top);
    const double floor = logits[top] - 87.0;
    if (rest > floor + 30.0) {
        REQUIRE_EQ(d.log_rest, about(rest, 5e-6));
    } else {
        REQUIRE(d.log_rest >= floor - 5e-6);
        REQUIRE(d.log_rest < floor + 30.1);
    }
    REQUIRE_EQ(d.log_odds(), d.top_logit - d.log_rest);
    REQUIRE_EQ(d.top_logprob(), about(logits[top] - reference::log_sum(logits), 2e-6));

    std::vector<float> largest = logits;
    largest.erase(std::remove(largest.begin(), largest.end(), -kInf), largest.end());
    std::sort(largest.begin(), largest.end(), std::greater<float>());
    for (const std::size_t k :
         {std::size_t{0}, std::size_t{1}, std::size_t{5}, std::size_t{40}, logits.size() + 3}) {
        const std::vector<float> expected(
            largest.begin(), largest.begin() + static_cast<std::ptrdiff_t>(std::min(k, largest.size())));
        REQUIRE_EQ(summarize(view(logits), k).top_logits, expected);
    }
}

}  // namespace

TEST_CASE("distribution: agrees with naive sums") {
    Random random(1);
    for (const std::size_t n : kSizes)
        for (const double scale : {0.01, 1.0, 10.0, 60.0})
            check_against_reference(random.values(n, -scale, scale));
}

TEST_CASE("distribution: agrees far from zero") {
    Random random(2);
    for (const std::size_t n : kSizes)
        for (const double offset : {-1000.0, 1000.0}) {
            const std::vector<float> logits = random.values(n, offset - 8.0, offset + 8.0);
            check_against_reference(logits);
        }
}

TEST_CASE("distribution: agrees with minus infinities") {
    Random random(3);
    for (const std::size_t n : kSizes) {
        for (const double share : {0.1, 0.9}) {
            std::vector<float> logits = random.values(n, -10.0, 10.0);
            for (float& x : logits)
                if (random.chance(share)) x = -kInf;
            logits[random.below(n)] = 1.0f;
            check_against_reference(logits);
        }
        // A first block without any possible token.
        std::vector<float> late(n, -kInf);
        late.back() = -3.0f;
        check_against_reference(late);
    }
}

TEST_CASE("distribution: top at every place") {
    Random random(4);
    for (const std::size_t n : kSizes) {
        for (const std::size_t at : {std::size_t{0}, std::size_t{1}, n / 2, n - 2, n - 1}) {
            std::vector<float> logits = random.values(n, -5.0, 5.0);
            logits[at] = 6.0f;
            check_against_reference(logits);
            logits[at] = 30.0f;
            check_against_reference(logits);
        }
    }
}

TEST_CASE("distribution: rising and falling") {
    // Rising: the top changes in every block, and what was summed is restated each time.
    for (const std::size_t n : kSizes) {
        for (const double slope : {0.001, 0.02, 0.5}) {
            std::vector<float> logits(n);
            for (std::size_t i = 0; i < n; ++i)
                logits[i] = static_cast<float>(slope * static_cast<double>(i));
            check_against_reference(logits);
            std::reverse(logits.begin(), logits.end());
            check_against_reference(logits);
        }
    }
}

TEST_CASE("distribution: all equal") {
    for (const std::size_t n : kSizes) {
        const Distribution d = summarize(view(std::vector<float>(n, 2.5f)));
        REQUIRE_EQ(d.top, 0);
        REQUIRE_EQ(d.entropy, about(std::log(static_cast<double>(n)), 1e-6));
        REQUIRE_EQ(d.log_odds(), about(-std::log(static_cast<double>(n - 1)), 1e-6));
        check_against_reference(std::vector<float>(n, 2.5f));
    }
}

TEST_CASE("distribution: first of equal tops") {
    std::vector<float> logits(4000, 0.0f);
    logits[3000] = logits[1500] = logits[1501] = logits[3999] = 4.0f;
    REQUIRE_EQ(summarize(view(logits)).top, 1500);
    check_against_reference(logits);
}

TEST_CASE("distribution: of one token") {
    const Distribution d = summarize(view(std::vector<float>{-7.0f}), 3);
    REQUIRE_EQ(d.top, 0);
    REQUIRE_EQ(d.log_normalizer, -7.0);
    REQUIRE_EQ(d.top_logprob(), 0.0);
    REQUIRE_EQ(d.entropy, 0.0);
    REQUIRE_EQ(d.log_odds(), 87.0);  // the floor of log_rest
    REQUIRE_EQ(d.top_logits, std::vector<float>{-7.0f});
}

TEST_CASE("distribution: log odds do not cancel") {
    // 1 - p1 is 0 in double precision here, and log(1 - p1) with it.
    const std::vector<float> logits = {0.0f, 60.0f, 1.0f, -2.0f};
    REQUIRE_EQ(summarize(view(logits)).log_odds(),
               about(60.0 - std::log(1.0 + std::exp(1.0) + std::exp(-2.0)), 1e-6));
    REQUIRE_EQ(summarize(view(logits)).entropy, about(reference::entropy(logits), 1e-12));
}

TEST_CASE("distribution: exponential is accurate") {
    // One other token: its probability relative to the top's is a single exponential.
    for (double x = 0.0; x < 86.5; x += 0.0137) {
        const std::vector<float> logits = {0.0f, static_cast<float>(-x)};
        REQUIRE_EQ(summarize(view(logits)).log_rest, about(logits[1], 2e-7));
    }
}

TEST_CASE("distribution: log rest has a floor") {
    for (const float other : {-kInf, -3e38f, -1000.0f, -50.0f}) {
        const Distribution d = summarize(view(std::vector<float>{other, 50.0f}));
        REQUIRE_EQ(d.log_rest, about(50.0 - 87.0, 1e-5));
        REQUIRE_EQ(d.entropy, about(0.0, 1e-30));
        REQUIRE_EQ(d.log_normalizer, 50.0);
    }
}

TEST_CASE("distribution: extremes of float") {
    const Distribution d = summarize(view(std::vector<float>{-3e38f, 3e38f, 0.0f}));
    REQUIRE_EQ(d.top, 1);
    REQUIRE_EQ(d.top_logprob(), about(0.0, 1e-30));
    REQUIRE_EQ(d.entropy, about(0.0, 1e-30));
}

TEST_CASE("distribution: throws without a possible token") {
    for (const std::size_t n : {1, 8, 1025}) {
        const std::vector<float> logits(n, -kInf);
        REQUIRE_THROWS_WITH_AS(summarize(view(logits)), doctest::Contains("no token can follow"),
                               GenerationError);
    }
    REQUIRE_THROWS_WITH_AS(summarize({}), doctest::Contains("no token can follow"), GenerationError);
}

TEST_CASE("distribution: throws for infinity") {
    for (const std::size_t n : kSizes) {
        for (const std::size_t at : {std::size_t{0}, n / 2, n - 1}) {
            std::vector<float> logits(n, 1.0f);
            logits[at] = kInf;
            REQUIRE_THROWS_WITH_AS(summarize(view(logits), 2), doctest::Contains("damaged"), GenerationError);
            logits[n - 1 - at] = kInf;
            REQUIRE_THROWS_WITH_AS(summarize(view(logits), 2), doctest::Contains("damaged"), GenerationError);
        }
    }
}

TEST_CASE("distribution: throws for nan") {
    for (const std::size_t n : kSizes) {
        for (const std::size_t at : {std::size_t{0}, std::size_t{1}, n / 2, n - 2, n - 1}) {
            Random random(5);
            std::vector<float> logits = random.values(n, -3.0, 3.0);
            logits[at] = kNan;
            REQUIRE_THROWS_WITH_AS(summarize(view(logits), 2), doctest::Contains("nan"), GenerationError);
            logits[at] = -kNan;
            REQUIRE_THROWS_WITH_AS(summarize(view(logits), 2), doctest::Contains("nan"), GenerationError);
        }
    }
    REQUIRE_THROWS_AS(summarize(view(std::vector<float>{kNan})), GenerationError);
}

TEST_CASE("distribution: throws for nan before any possible token") {
    std::vector<float> logits(3000, -kInf);
    logits[10] = kNan;
    logits[2500] = 1.0f;
    REQUIRE_THROWS_WITH_AS(summarize(view(logits), 2), doctest::Contains("nan"), GenerationError);
}

TEST_CASE("top_logprobs: are the largest in order") {
    Random random(6);
    for (const std::size_t n : {std::size_t{3}, std::size_t{50}, std::size_t{2000}}) {
        std::vector<float> logits = random.values(n, -10.0, 10.0);
        logits[1] = -kInf;
        const Distribution d = summarize(view(logits));
        std::vector<std::size_t> order(n);
        for (std::size_t i = 0; i < n; ++i) order[i] = i;
        std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return logits[a] > logits[b]; });
        for (const std::size_t count : {std::size_t{0}, std::size_t{1}, std::size_t{2}, std::size_t{20}, n}) {
            const auto best = colm::top_logprobs(view(logits), d, count);
            REQUIRE_EQ(best.size(), std::min(count, n - 1));  // not the impossible one
            for (std::size_t i = 0; i < best.size(); ++i) {
                REQUIRE_EQ(best[i].token, order[i]);
                REQUIRE_EQ(best[i].logprob, about(logits[order[i]] - reference::log_sum(logits), 2e-6));
            }
        }
    }
}

TEST_CASE("top_logprobs: of equals are the first") {
    const std::vector<float> logits = {1.0f, 5.0f, 1.0f, 5.0f, 1.0f};
    const auto best = colm::top_logprobs(view(logits), summarize(view(logits)), 4);
    REQUIRE_EQ(best.size(), 4);
    REQUIRE_EQ(best[0].token, 1);
    REQUIRE_EQ(best[1].token, 3);
    REQUIRE_EQ(best[2].token, 0);
    REQUIRE_EQ(best[3].token, 2);
}

TEST_CASE("distribution: finds the largest") {
    Random random(7);
    for (const std::size_t size : kSizes)
        for (const std::size_t n :
             {std::size_t{0}, std::size_t{1}, std::size_t{3}, std::size_t{40}, size, size + 1}) {
            std::vector<float> logits(size);
            // Of few values, so that many are equal, and some impossible.
            for (float& logit : logits) logit = std::floor(static_cast<float>(random.between(-20.0, 20.0)));
            logits[size / 2] = -kInf;
            std::vector<std::size_t> order;
            for (std::size_t i = 0; i < size; ++i)
                if (logits[i] != -kInf) order.push_back(i);
            std::stable_sort(order.begin(), order.end(),
                             [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
            order.resize(std::min(order.size(), n));
            const std::vector<colm::Candidate> found = colm::largest(view(logits), n);
            REQUIRE_EQ(found.size(), order.size());
            for (std::size_t i = 0; i < found.size(); ++i) {
                REQUIRE_EQ(found[i].token, static_cast<colm::Token>(order[i]));
                REQUIRE_EQ(found[i].logit, logits[order[i]]);
            }
        }
}
