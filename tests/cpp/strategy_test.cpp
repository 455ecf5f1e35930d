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

TEST(strategy_defer_is_the_assistant) {
    const std::vector<float> base = {5.0f, 0.0f, 1.0f};
    const std::vector<float> assistant = {0.0f, 3.0f, 1.0f};
    Mixer m = mixer(Strategy::defer);
    const Routed mixed = m.mix(routed(base), routed(assistant), -7.0);
    CHECK(mixed.logits.data == assistant.data());
    CHECK_EQ(mixed.logits.size, 3);
    CHECK_EQ(mixed.distribution.top, 1);
    CHECK_NEAR(mixed.distribution.log_normalizer, reference::log_sum(assistant), 1e-6);
}

TEST(strategy_compose_is_the_mixture_of_probabilities) {
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
            CHECK_EQ(mixed.logits.size, n);
            for (std::size_t i = 0; i < n; ++i) {
                const double expected = (1.0 - share) * p[i] + share * q[i];
                CHECK_NEAR(mixed.logits[i] - mixed.distribution.log_normalizer, std::log(expected), 1e-5);
            }
            CHECK_NEAR(mixed.distribution.log_normalizer, 0.0, 1e-5);
        }
    }
}

TEST(strategy_compose_at_the_ends) {
    Random random(2);
    const std::vector<float> base = random.values(20, -4.0, 4.0);
    const std::vector<float> assistant = random.values(20, -4.0, 4.0);
    Mixer m = mixer(Strategy::compose);
    for (const double z : {1000.0, kInfD}) {
        const Routed mixed = m.mix(routed(base), routed(assistant), z);
        for (std::size_t i = 0; i < 20; ++i)
            CHECK_NEAR(mixed.logits[i], assistant[i] - reference::log_sum(assistant), 1e-5);
    }
    for (const double z : {-1000.0, -kInfD}) {
        const Routed mixed = m.mix(routed(base), routed(assistant), z);
        for (std::size_t i = 0; i < 20; ++i)
            CHECK_NEAR(mixed.logits[i], base[i] - reference::log_sum(base), 1e-5);
    }
}

TEST(strategy_compose_with_impossible_tokens) {
    Mixer m = mixer(Strategy::compose);
    const Routed mixed =
        m.mix(routed({0.0f, -kInf, 0.0f, -kInf}), routed({0.0f, 0.0f, -kInf, -kInf}), std::log(3.0));
    CHECK_NEAR(mixed.logits[0], std::log(0.5), 1e-6);
    CHECK_NEAR(mixed.logits[1], std::log(0.75 * 0.5), 1e-6);
    CHECK_NEAR(mixed.logits[2], std::log(0.25 * 0.5), 1e-6);
    CHECK_EQ(mixed.logits[3], -kInf);
    for (const double z : {-kInfD, kInfD})
        CHECK_EQ(m.mix(routed({0.0f, -kInf}), routed({0.0f, -kInf}), z).logits[1], -kInf);
}

TEST(strategy_contrastive_subtracts_the_base) {
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
                    CHECK_EQ(mixed.logits[i], -kInf);
                    continue;
                }
                ++n_possible;
                expected[i] = static_cast<float>(std::log(q[i]) - beta * std::log(p[i]));
                CHECK_NEAR(mixed.logits[i], expected[i], 2e-5);
            }
            CHECK_EQ(n_possible == 1, alpha == 1.0);  // the assistant's top always remains
            CHECK_NEAR(mixed.distribution.log_normalizer, reference::log_sum(expected), 2e-5);
            CHECK_EQ(mixed.distribution.top, reference::argmax(expected));
        }
    }
}

TEST(strategy_contrastive_keeps_equal_tops) {
    Mixer m = mixer(Strategy::contrastive, 1.0, 1.0);
    const Routed mixed = m.mix(routed({2.0f, 1.0f, 0.0f}), routed({3.3f, 3.3f, 3.2f}), 0.0);
    CHECK_EQ(mixed.distribution.top, 1);  // equally likely for the assistant, less for the base
    CHECK(std::isfinite(mixed.logits[0]));
    CHECK_EQ(mixed.logits[2], -kInf);
}

TEST(strategy_contrastive_with_tokens_impossible_for_both) {
    // As a deferral token is.
    for (const double beta : {0.0, 0.5}) {
        Mixer m = mixer(Strategy::contrastive, beta, 0.001);
        const Routed mixed = m.mix(routed({1.0f, -kInf, 2.0f}), routed({1.0f, -kInf, 2.0f}), 0.0);
        CHECK_EQ(mixed.logits[1], -kInf);
        CHECK(std::isfinite(mixed.logits[0]));
        CHECK_EQ(mixed.distribution.top, 2);
    }
}

TEST(strategy_contrastive_with_tokens_impossible_for_the_base) {
    // No damage, and for the assistant the likeliest: what the base would never say is what contrast looks
    // for.
    for (const double beta : {0.0, 0.5}) {
        Mixer m = mixer(Strategy::contrastive, beta, 0.1);
        const Routed mixed = m.mix(routed({0.0f, -kInf, 0.0f}), routed({0.0f, 1.0f, 0.0f}), 0.0);
        CHECK_EQ(mixed.distribution.top, 1);
        CHECK(std::isfinite(mixed.logits[1]));
    }
}

TEST(strategy_result_does_not_need_its_inputs) {
    Mixer m = mixer(Strategy::compose);
    colm::View<const float> logits;
    {
        const std::vector<float> base = {1.0f, 2.0f};
        const std::vector<float> assistant = {2.0f, 1.0f};
        logits = m.mix(routed(base), routed(assistant), 0.0).logits;
    }
    CHECK_NEAR(logits[0], std::log(0.5), 1e-6);
    // And a later, smaller vocabulary leaves nothing of a larger one behind.
    CHECK_EQ(m.mix(routed({1.0f}), routed({1.0f}), 0.0).logits.size, 1);
}

TEST(strategy_checks_its_options) {
    for (const double beta : {-0.1, kNanD, kInfD})
        CHECK_THROWS(OptionError, mixer(Strategy::contrastive, beta, 0.1), "beta is");
    for (const double alpha : {0.0, -0.5, 1.1, kNanD})
        CHECK_THROWS(OptionError, mixer(Strategy::contrastive, 0.5, alpha), "alpha is");
    mixer(Strategy::contrastive, 0.0, 1.0);
    CHECK(mixer(Strategy::compose).strategy() == Strategy::compose);
}
