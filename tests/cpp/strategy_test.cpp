#include "colm/strategy.h"

#include <cmath>
#include <vector>

#include "check.h"
#include "colm/error.h"
#include "reference.h"

using colm::Mixer;
using colm::OptionError;
using colm::Routed;
using colm::Strategy;
using colm::StrategyOptions;
using reference::kInf;
using reference::kInfD;
using reference::kNanD;
using reference::Random;
using reference::view;

namespace {

Routed routed(const std::vector<float>& logits) { return {view(logits), summarize(view(logits))}; }

Mixer mixer(Strategy strategy, double beta = 0.5, double alpha = 0.1) {
    return Mixer(StrategyOptions{strategy, beta, alpha});
}

}  // namespace

TEST_CASE("strategy: defer is the assistant") {
    const std::vector<float> base = {5.0f, 0.0f, 1.0f};
    const std::vector<float> assistant = {0.0f, 3.0f, 1.0f};
    Mixer m = mixer(Strategy::defer);
    const Routed mixed = m.mix(routed(base), routed(assistant), -7.0);
    REQUIRE(mixed.logits.data == assistant.data());
    REQUIRE_EQ(mixed.logits.size, 3);
    REQUIRE_EQ(mixed.distribution.top, 1);
    REQUIRE_EQ(mixed.distribution.log_normalizer, about(reference::log_sum(assistant), 1e-6));
}

TEST_CASE("strategy: compose is the mixture of probabilities") {
    Random random(1);
    Mixer m = mixer(Strategy::compose);
    for (const std::size_t n : {1, 2, 40, 3000}) {
        for (const double z : {-6.0, -0.5, 0.0, 2.0, 9.0}) {
            std::vector<float> base = random.values(n, -6.0, 6.0);
            std::vector<float> assistant = random.values(n, -6.0, 6.0);
            for (float& x : base) x += 40.0f;  // offsets of logits mean nothing
            for (float& x : assistant) x -= 70.0f;
            const Routed mixed = m.mix(routed(base), routed(assistant), z);
            const auto p = reference::softmax(base);
            const auto q = reference::softmax(assistant);
            const double share = reference::sigmoid(z);
            REQUIRE_EQ(mixed.logits.size, n);
            for (std::size_t i = 0; i < n; ++i) {
                const double expected = (1.0 - share) * p[i] + share * q[i];
                REQUIRE_EQ(mixed.logits[i] - mixed.distribution.log_normalizer,
                           about(std::log(expected), 1e-5));
            }
            REQUIRE_EQ(mixed.distribution.log_normalizer, about(0.0, 1e-5));
        }
    }
}

TEST_CASE("strategy: compose at the ends") {
    Random random(2);
    const std::vector<float> base = random.values(20, -4.0, 4.0);
    const std::vector<float> assistant = random.values(20, -4.0, 4.0);
    Mixer m = mixer(Strategy::compose);
    for (const double z : {1000.0, kInfD}) {
        const Routed mixed = m.mix(routed(base), routed(assistant), z);
        for (std::size_t i = 0; i < 20; ++i)
            REQUIRE_EQ(mixed.logits[i], about(assistant[i] - reference::log_sum(assistant), 1e-5));
    }
    for (const double z : {-1000.0, -kInfD}) {
        const Routed mixed = m.mix(routed(base), routed(assistant), z);
        for (std::size_t i = 0; i < 20; ++i)
            REQUIRE_EQ(mixed.logits[i], about(base[i] - reference::log_sum(base), 1e-5));
    }
}

TEST_CASE("strategy: compose with impossible tokens") {
    Mixer m = mixer(Strategy::compose);
    const Routed mixed =
        m.mix(routed({0.0f, -kInf, 0.0f, -kInf}), routed({0.0f, 0.0f, -kInf, -kInf}), std::log(3.0));
    REQUIRE_EQ(mixed.logits[0], about(std::log(0.5), 1e-6));
    REQUIRE_EQ(mixed.logits[1], about(std::log(0.75 * 0.5), 1e-6));
    REQUIRE_EQ(mixed.logits[2], about(std::log(0.25 * 0.5), 1e-6));
    REQUIRE_EQ(mixed.logits[3], -kInf);
    for (const double z : {-kInfD, kInfD})
        REQUIRE_EQ(m.mix(routed({0.0f, -kInf}), routed({0.0f, -kInf}), z).logits[1], -kInf);
}

TEST_CASE("strategy: contrastive subtracts the base") {
    Random random(3);
    for (const double beta : {0.0, 0.5, 1.0, 2.5}) {
        for (const double alpha : {0.001, 0.1, 0.6, 1.0}) {
            Mixer m = mixer(Strategy::contrastive, beta, alpha);
            const std::vector<float> base = random.values(300, 10.0, 18.0);
            const std::vector<float> assistant = random.values(300, -44.0, -36.0);
            const auto p = reference::softmax(base);
            const auto q = reference::softmax(assistant);
            const double cutoff = alpha * q[reference::argmax(assistant)];
            const Routed mixed = m.mix(routed(base), routed(assistant), 0.0);
            std::vector<float> expected(300, -kInf);
            std::size_t n_possible = 0;
            for (std::size_t i = 0; i < 300; ++i) {
                if (q[i] < cutoff * (1.0 - 1e-9)) {
                    REQUIRE_EQ(mixed.logits[i], -kInf);
                    continue;
                }
                ++n_possible;
                expected[i] = static_cast<float>(std::log(q[i]) - beta * std::log(p[i]));
                REQUIRE_EQ(mixed.logits[i], about(expected[i], 2e-5));
            }
            REQUIRE_EQ(n_possible == 1, alpha == 1.0);  // the assistant's top always remains
            REQUIRE_EQ(mixed.distribution.log_normalizer, about(reference::log_sum(expected), 2e-5));
            REQUIRE_EQ(mixed.distribution.top, reference::argmax(expected));
        }
    }
}

TEST_CASE("strategy: contrastive keeps equal tops") {
    Mixer m = mixer(Strategy::contrastive, 1.0, 1.0);
    const Routed mixed = m.mix(routed({2.0f, 1.0f, 0.0f}), routed({3.3f, 3.3f, 3.2f}), 0.0);
    REQUIRE_EQ(mixed.distribution.top, 1);  // equally likely for the assistant, less for the base
    REQUIRE(std::isfinite(mixed.logits[0]));
    REQUIRE_EQ(mixed.logits[2], -kInf);
}

TEST_CASE("strategy: contrastive with tokens impossible for both") {
    // As a deferral token is.
    for (const double beta : {0.0, 0.5}) {
        Mixer m = mixer(Strategy::contrastive, beta, 0.001);
        const Routed mixed = m.mix(routed({1.0f, -kInf, 2.0f}), routed({1.0f, -kInf, 2.0f}), 0.0);
        REQUIRE_EQ(mixed.logits[1], -kInf);
        REQUIRE(std::isfinite(mixed.logits[0]));
        REQUIRE_EQ(mixed.distribution.top, 2);
    }
}

TEST_CASE("strategy: contrastive with tokens impossible for the base") {
    // No damage, and for the assistant the likeliest: what the base would never say is what contrast looks
    // for.
    for (const double beta : {0.0, 0.5}) {
        Mixer m = mixer(Strategy::contrastive, beta, 0.1);
        const Routed mixed = m.mix(routed({0.0f, -kInf, 0.0f}), routed({0.0f, 1.0f, 0.0f}), 0.0);
        REQUIRE_EQ(mixed.distribution.top, 1);
        REQUIRE(std::isfinite(mixed.logits[1]));
    }
}

TEST_CASE("strategy: add multiplies the probabilities") {
    Random random(4);
    Mixer m = mixer(Strategy::add);
    const std::vector<float> base = random.values(300, 30.0, 38.0);
    const std::vector<float> expert = random.values(300, -44.0, -36.0);
    const auto p = reference::softmax(base);
    const auto q = reference::softmax(expert);
    double sum = 0.0;
    for (std::size_t i = 0; i < 300; ++i) sum += p[i] * q[i];
    const Routed mixed = m.mix(routed(base), routed(expert), 0.0);
    for (std::size_t i = 0; i < 300; ++i)
        REQUIRE_EQ(mixed.logits[i] - mixed.distribution.log_normalizer,
                   about(std::log(p[i] * q[i] / sum), 2e-5));
    const Routed ends = m.mix(routed({0.0f, -kInf, 1.0f}), routed({0.0f, 9.0f, -kInf}), 0.0);
    REQUIRE_EQ(ends.logits[1], -kInf);
    REQUIRE_EQ(ends.logits[2], -kInf);
    REQUIRE_EQ(ends.distribution.top, 0);
}

TEST_CASE("strategy: proxy adds the difference of two experts to the base") {
    Random random(6);
    for (const double weight : {0.0, 0.5, 1.0, 3.0}) {
        StrategyOptions options{Strategy::proxy};
        options.proxy_weight = weight;
        Mixer m(options, {2, 1});
        const std::vector<float> base = random.values(200, -5.0, 5.0);
        const std::vector<float> tuned = random.values(200, 20.0, 28.0);
        const std::vector<float> untuned = random.values(200, -28.0, -20.0);
        std::vector<float> expected(200);
        for (std::size_t i = 0; i < 200; ++i)
            expected[i] = static_cast<float>(base[i] + weight * (tuned[i] - untuned[i]));
        const double norm = reference::log_sum(expected);
        const Routed mixed = m.proxy(routed(base), routed(tuned), routed(untuned));
        for (std::size_t i = 0; i < 200; ++i)
            REQUIRE_EQ(mixed.logits[i] - mixed.distribution.log_normalizer, about(expected[i] - norm, 1e-4));
        // What a small one rules out is very unlikely for it, not infinitely; the base's word is final.
        const Routed ends = m.proxy(routed({0.0f, -kInf, 0.0f, 0.0f}), routed({0.0f, 0.0f, -kInf, 0.0f}),
                                    routed({0.0f, -kInf, 0.0f, -kInf}));
        REQUIRE_EQ(ends.logits[1], -kInf);
        for (const std::size_t i : {0U, 2U, 3U}) REQUIRE(std::isfinite(ends.logits[i]));
    }
}

TEST_CASE("strategy: result does not need its inputs") {
    Mixer m = mixer(Strategy::compose);
    colm::View<const float> logits;
    {
        const std::vector<float> base = {1.0f, 2.0f};
        const std::vector<float> assistant = {2.0f, 1.0f};
        logits = m.mix(routed(base), routed(assistant), 0.0).logits;
    }
    REQUIRE_EQ(logits[0], about(std::log(0.5), 1e-6));
    // And a later, smaller vocabulary leaves nothing of a larger one behind.
    REQUIRE_EQ(m.mix(routed({1.0f}), routed({1.0f}), 0.0).logits.size, 1);
}

TEST_CASE("strategy: checks its options") {
    for (const double beta : {-0.1, kNanD, kInfD})
        REQUIRE_THROWS_WITH_AS(mixer(Strategy::contrastive, beta, 0.1), doctest::Contains("beta is"),
                               OptionError);
    for (const double alpha : {0.0, -0.5, 1.1, kNanD})
        REQUIRE_THROWS_WITH_AS(mixer(Strategy::contrastive, 0.5, alpha), doctest::Contains("alpha is"),
                               OptionError);
    mixer(Strategy::contrastive, 0.0, 1.0);
    REQUIRE(mixer(Strategy::compose).strategy() == Strategy::compose);
}
