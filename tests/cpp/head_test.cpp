#include "colm/head.h"

#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "colm/error.h"
#include "reference.h"

using colm::Activation;
using colm::Distribution;
using colm::Feature;
using colm::HeadError;
using colm::HeadInfo;
using colm::HeadInput;
using colm::HeadLayer;
using colm::LearnedHead;
using reference::Random;
using reference::view;

namespace {

HeadLayer random_layer(Random& random, std::size_t n_in, std::size_t n_out) {
    return {n_in, n_out, random.values(n_in * n_out, -0.5, 0.5), random.values(n_out, -0.5, 0.5)};
}

HeadInfo make_info(std::size_t n_embd, std::vector<Feature> features = {}, std::size_t top_k = 0,
                   Activation activation = Activation::relu) {
    HeadInfo info;
    info.n_embd = n_embd;
    info.features = std::move(features);
    info.top_k = top_k;
    info.activation = activation;
    return info;
}

double activate(Activation activation, double x) {
    if (activation == Activation::relu) return x > 0.0 ? x : 0.0;
    if (activation == Activation::silu) return x * reference::sigmoid(x);
    return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
}

double run_naively(Activation activation, const std::vector<HeadLayer>& layers, std::vector<double> values) {
    for (std::size_t l = 0; l < layers.size(); ++l) {
        std::vector<double> next(layers[l].n_out);
        for (std::size_t o = 0; o < next.size(); ++o) {
            next[o] = layers[l].bias[o];
            for (std::size_t i = 0; i < values.size(); ++i)
                next[o] += static_cast<double>(layers[l].weight[o * values.size() + i]) * values[i];
            if (l + 1 < layers.size()) next[o] = activate(activation, next[o]);
        }
        values = next;
    }
    return values[0];
}

double defer_logit(const colm::Head& head, const std::vector<float>& logits) {
    const Distribution distribution = summarize(view(logits), head.n_top_logits());
    HeadInput input;
    input.distribution = &distribution;
    return head.defer_logit(input);
}

std::vector<float> features_of(const std::vector<float>& logits, const std::vector<Feature>& features,
                               std::size_t top_k) {
    std::size_t n = 0;
    for (const Feature feature : features) n += feature == Feature::top_k_logprobs ? top_k : 1;
    std::vector<float> out(n + 1, 1234.0f);
    compute_features(summarize(view(logits), std::max<std::size_t>(top_k, 2)), features, top_k, out.data());
    REQUIRE_EQ(out.back(), 1234.0f);  // not one too many
    out.pop_back();
    return out;
}

}  // namespace

TEST_CASE("head: learned agrees with naive layers") {
    Random random(1);
    const std::vector<std::vector<Feature>> sets = {
        {},
        {Feature::entropy},
        {Feature::log_odds, Feature::entropy, Feature::margin, Feature::top_k_logprobs},
        {Feature::top_k_logprobs, Feature::margin}};
    for (const std::size_t n_embd : {1, 7, 8, 9, 64, 131}) {
        for (const auto& features : sets) {
            for (const auto activation : {Activation::relu, Activation::gelu, Activation::silu}) {
                for (const std::vector<std::size_t>& widths :
                     {std::vector<std::size_t>{1}, {5, 1}, {17, 8, 1}}) {
                    const HeadInfo info = make_info(n_embd, features, 4, activation);
                    const std::vector<float> logits = random.values(50, -4.0, 4.0);
                    std::vector<double> inputs;
                    const std::vector<float> hidden = random.values(n_embd, -2.0, 2.0);
                    for (const float h : hidden) inputs.push_back(h);
                    for (const float f : features_of(logits, features, 4)) inputs.push_back(f);
                    std::vector<HeadLayer> layers;
                    std::size_t n_in = inputs.size();
                    for (const std::size_t width : widths) {
                        layers.push_back(random_layer(random, n_in, width));
                        n_in = width;
                    }
                    const LearnedHead head(info, layers);
                    const Distribution distribution = summarize(view(logits), head.n_top_logits());
                    HeadInput input;
                    input.hidden = hidden.data();
                    input.distribution = &distribution;
                    REQUIRE_EQ(head.defer_logit(input), about(run_naively(activation, layers, inputs), 2e-5));
                }
            }
        }
    }
}

TEST_CASE("head: linear by hand") {
    // z = 2 h0 - h1 + 0.5 entropy + 3
    const LearnedHead head(make_info(2, {Feature::entropy}), {HeadLayer{3, 1, {2.0f, -1.0f, 0.5f}, {3.0f}}});
    const std::vector<float> hidden = {0.25f, 4.0f};
    const Distribution distribution = summarize(view(std::vector<float>(8, 0.0f)));
    HeadInput input;
    input.hidden = hidden.data();
    input.distribution = &distribution;
    REQUIRE_EQ(head.defer_logit(input), about(0.5 - 4.0 + 0.5 * std::log(8.0) + 3.0, 1e-6));
    REQUIRE(head.needs_hidden());
    REQUIRE_EQ(head.defer_token(), colm::kNoToken);
    REQUIRE_EQ(head.n_features(), 1);
}

TEST_CASE("head: activations are between the layers only") {
    // A negative result passes the last layer; a negative hidden value does not pass relu.
    const LearnedHead head(make_info(1), {HeadLayer{1, 2, {1.0f, -1.0f}, {0.0f, 0.0f}},
                                          HeadLayer{2, 1, {-5.0f, 7.0f}, {-1.0f}}});
    const Distribution distribution = summarize(view(std::vector<float>{0.0f, 1.0f}));
    const float hidden = 2.0f;
    HeadInput input;
    input.hidden = &hidden;
    input.distribution = &distribution;
    REQUIRE_EQ(head.defer_logit(input), -11.0);
}

TEST_CASE("head: features in the order asked for") {
    const std::vector<float> logits = {0.5f, 2.0f, -1.0f, 1.5f, 0.0f};
    const double norm = reference::log_sum(logits);
    const std::vector<float> out = features_of(
        logits, {Feature::margin, Feature::top_k_logprobs, Feature::entropy, Feature::log_odds}, 3);
    REQUIRE_EQ(out.size(), 6);
    REQUIRE_EQ(out[0], about(0.5, 1e-6));
    REQUIRE_EQ(out[1], about(2.0 - norm, 1e-6));
    REQUIRE_EQ(out[2], about(1.5 - norm, 1e-6));
    REQUIRE_EQ(out[3], about(0.5 - norm, 1e-6));
    REQUIRE_EQ(out[4], about(reference::entropy(logits), 1e-6));
    const double p = reference::softmax(logits)[1];
    REQUIRE_EQ(out[5], about(reference::logit(p), 1e-6));
}

TEST_CASE("head: log odds feature is clipped") {
    REQUIRE_EQ(features_of({0.0f, 80.0f}, {Feature::log_odds}, 0), std::vector<float>{50.0f});
    REQUIRE_EQ(features_of({1.0f}, {Feature::log_odds}, 0), std::vector<float>{50.0f});
    REQUIRE_EQ(features_of({0.0f, 49.0f}, {Feature::log_odds}, 0)[0], about(49.0, 1e-5));
    REQUIRE_EQ(features_of(std::vector<float>(3000, 1.0f), {Feature::log_odds}, 0)[0],
               about(-std::log(2999.0), 1e-5));
}

TEST_CASE("head: top k feature repeats the last possible") {
    const float minus = -reference::kInf;
    const std::vector<float> out = features_of({minus, 1.0f, minus, 0.0f}, {Feature::top_k_logprobs}, 4);
    REQUIRE_EQ(out.size(), 4);
    REQUIRE_EQ(out[0], about(-std::log1p(std::exp(-1.0)), 1e-6));
    REQUIRE_EQ(out[1], about(-1.0 - std::log1p(std::exp(-1.0)), 1e-6));
    REQUIRE_EQ(out[2], out[1]);
    REQUIRE_EQ(out[3], out[1]);
}

TEST_CASE("head: asks for the top logits its features need") {
    Random random(2);
    const auto n_top = [&](std::vector<Feature> features, std::size_t top_k) {
        std::size_t n = 3;
        for (const Feature feature : features) n += feature == Feature::top_k_logprobs ? top_k : 1;
        const LearnedHead head(make_info(3, std::move(features), top_k), {random_layer(random, n, 1)});
        return head.n_top_logits();
    };
    REQUIRE_EQ(n_top({}, 9), 0);
    REQUIRE_EQ(n_top({Feature::log_odds, Feature::entropy}, 9), 0);
    REQUIRE_EQ(n_top({Feature::margin}, 9), 2);
    REQUIRE_EQ(n_top({Feature::top_k_logprobs}, 9), 9);
    REQUIRE_EQ(n_top({Feature::margin, Feature::top_k_logprobs}, 9), 9);
    REQUIRE_EQ(n_top({Feature::top_k_logprobs, Feature::margin}, 1), 2);
    REQUIRE_EQ(n_top({Feature::margin, Feature::top_k_logprobs}, 1), 2);
}

TEST_CASE("head: checks its shapes") {
    const auto make = [](std::vector<HeadLayer> layers) {
        return LearnedHead(make_info(2), std::move(layers));
    };
    const HeadLayer good{2, 1, {1.0f, 1.0f}, {0.0f}};
    const HeadLayer wide{2, 3, std::vector<float>(6), std::vector<float>(3)};
    make({good});
    make({wide, HeadLayer{3, 1, std::vector<float>(3), {0.0f}}});
    REQUIRE_THROWS_WITH_AS(make({}), doctest::Contains("no layers"), HeadError);
    REQUIRE_THROWS_WITH_AS(make({HeadLayer{3, 1, std::vector<float>(3), {0.0f}}}),
                           doctest::Contains("layer 0 of the head takes 3 inputs; it is given 2"), HeadError);
    REQUIRE_THROWS_WITH_AS(make({wide, good}),
                           doctest::Contains("layer 1 of the head takes 2 inputs; it is given 3"), HeadError);
    REQUIRE_EQ(LearnedHead(make_info(2), {wide}).n_scores(), 3U);
    const HeadLayer too_wide{2, 10, std::vector<float>(20), std::vector<float>(10)};
    REQUIRE_THROWS_WITH_AS(make({too_wide}), doctest::Contains("gives 10 outputs; at most 9"), HeadError);
    REQUIRE_THROWS_WITH_AS(make({HeadLayer{2, 1, {1.0f}, {0.0f}}}), doctest::Contains("wrong size"),
                           HeadError);
    REQUIRE_THROWS_WITH_AS(make({HeadLayer{2, 1, {1.0f, 1.0f}, {}}}), doctest::Contains("wrong size"),
                           HeadError);
    REQUIRE_THROWS_WITH_AS(make({HeadLayer{2, 0, {}, {}}}), doctest::Contains("wrong size"), HeadError);
    // Features count as inputs.
    REQUIRE_THROWS_WITH_AS(LearnedHead(make_info(2, {Feature::entropy}), {good}),
                           doctest::Contains("it is given 3"), HeadError);
    REQUIRE_THROWS_WITH_AS(LearnedHead(make_info(2, {Feature::top_k_logprobs}, 5), {good}),
                           doctest::Contains("it is given 7"), HeadError);
}

TEST_CASE("head: token gives the logit of its token") {
    const colm::TokenHead head(17);
    HeadInput input;
    input.token_logit = -2.25f;
    REQUIRE_EQ(head.defer_logit(input), -2.25);
    REQUIRE_EQ(head.defer_token(), 17);
    REQUIRE(!head.needs_hidden());
    REQUIRE_EQ(head.n_top_logits(), 0);
}

TEST_CASE("head: confidence is one minus the top probability") {
    Random random(3);
    const auto head = colm::make_training_free_head("confidence");
    for (const std::size_t n : {2, 30, 2000}) {
        const std::vector<float> logits = random.values(n, -3.0, 3.0);
        const double p = reference::softmax(logits)[reference::argmax(logits)];
        REQUIRE_EQ(reference::sigmoid(defer_logit(*head, logits)), about(1.0 - p, 1e-6));
    }
    REQUIRE_EQ(defer_logit(*head, {60.0f, 0.0f}), about(-60.0, 1e-5));  // where 1 - p rounds to 0
}

TEST_CASE("head: entropy is one minus the inverse perplexity") {
    Random random(4);
    const auto head = colm::make_training_free_head("entropy");
    for (const std::size_t n : {2, 30, 2000}) {
        const std::vector<float> logits = random.values(n, -3.0, 3.0);
        REQUIRE_EQ(reference::sigmoid(defer_logit(*head, logits)),
                   about(1.0 - std::exp(-reference::entropy(logits)), 1e-6));
    }
    REQUIRE_EQ(defer_logit(*head, std::vector<float>(1000, 0.0f)), about(std::log(999.0), 1e-5));
    REQUIRE_EQ(defer_logit(*head, {1.0f}), -reference::kInfD);  // certain: never defer
}

TEST_CASE("head: random follows splitmix64") {
    const auto head = colm::make_training_free_head("random");
    const auto z = [&](std::uint32_t seed, std::size_t position) {
        HeadInput input;
        input.seed = seed;
        input.position = position;
        return head->defer_logit(input);
    };
    const auto from_bits = [](std::uint64_t bits) {
        const double u = (static_cast<double>(bits >> 11) + 0.5) / 9007199254740992.0;
        return std::log(u / (1.0 - u));
    };
    // Published first outputs of splitmix64 with state 0 (twice) and with state 1234567.
    REQUIRE_EQ(z(0, 0), about(from_bits(0xE220A8397B1DCDAFULL), 1e-12));
    REQUIRE_EQ(z(1, 0), about(from_bits(0x6E789E6AA1B965F4ULL), 1e-12));
    REQUIRE_EQ(z(0, 1234567), about(from_bits(6457827717110365317ULL), 1e-12));
    REQUIRE_EQ(z(1, 1234567), about(from_bits(3203168211198807973ULL), 1e-12));
    // The largest seed does not wrap in 32 bits.
    REQUIRE(z(0xFFFFFFFFU, 3) != z(0x7FFFFFFFU, 3));
}

TEST_CASE("head: random is uniform") {
    const auto head = colm::make_training_free_head("random");
    std::vector<int> bins(10);
    for (std::uint32_t seed = 0; seed < 10; ++seed) {
        for (std::size_t position = 0; position < 2000; ++position) {
            HeadInput input;
            input.seed = seed;
            input.position = position;
            ++bins[static_cast<std::size_t>(reference::sigmoid(head->defer_logit(input)) * 10.0)];
        }
    }
    for (const int count : bins) REQUIRE_EQ(count, about(2000, 200));  // more than four standard deviations
}

TEST_CASE("head: training free names") {
    for (const char* name : {"confidence", "entropy", "random"}) {
        const auto head = colm::make_training_free_head(name);
        REQUIRE(head != nullptr);
        REQUIRE(!head->needs_hidden());
        REQUIRE_EQ(head->n_top_logits(), 0);
        REQUIRE_EQ(head->defer_token(), colm::kNoToken);
    }
    REQUIRE(colm::make_training_free_head("") == nullptr);
    REQUIRE(colm::make_training_free_head("Confidence") == nullptr);
}
