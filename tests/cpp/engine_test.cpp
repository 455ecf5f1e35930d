#include "colm/engine.h"

#include <chrono>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "colm/error.h"
#include "fake_model.h"
#include "reference.h"

using colm::Cancelled;
using colm::Engine;
using colm::GenerationError;
using colm::HeadInput;
using colm::Interrupt;
using colm::Policy;
using colm::PolicyOptions;
using colm::Router;
using colm::Schedule;
using colm::Sequence;
using colm::Source;
using colm::Step;
using colm::Strategy;
using colm::StrategyOptions;
using colm::Token;

namespace {

using Text = FakeModel::Text;
using Log = std::vector<std::string>;
using Sources = std::vector<Source>;

constexpr Source kBase = Source::base;
constexpr Source kAssistant = Source::assistant;

// A head of a function. It keeps what it was last given.
struct TestHead final : colm::Head {
    explicit TestHead(std::function<double(const HeadInput&)> f) : function(std::move(f)) {}

    double defer_logit(const HeadInput& input) const override { return function(input); }
    bool needs_hidden() const override { return hidden; }
    std::size_t n_top_logits() const override { return n_top; }
    Token defer_token() const override { return token; }

    std::function<double(const HeadInput&)> function;
    bool hidden = false;
    std::size_t n_top = 0;
    Token token = colm::kNoToken;
};

// Defers the token at these positions (of the text, prompt included) alone.
std::shared_ptr<TestHead> defer_at(std::vector<std::size_t> positions) {
    return std::make_shared<TestHead>([positions = std::move(positions)](const HeadInput& input) {
        for (const std::size_t position : positions)
            if (position == input.position) return 1.0;
        return -1.0;
    });
}

Router make_router(std::shared_ptr<const colm::Head> head, double threshold = 0.5,
                   StrategyOptions strategy = {}) {
    PolicyOptions policy;
    policy.threshold = threshold;
    return Router{std::move(head), Policy(policy), colm::Mixer(strategy), std::make_unique<GreedySampler>()};
}

GreedySampler& sampler(Router& router) { return static_cast<GreedySampler&>(*router.sampler); }

Sequence make_sequence(Text prompt) {
    Sequence sequence;
    sequence.n_prompt = prompt.size();
    sequence.tokens = std::move(prompt);
    return sequence;
}

struct World {
    World(std::unique_ptr<FakeModel> base_model, std::unique_ptr<FakeModel> assistant_model,
          std::size_t n_shared)
        : base(*base_model),
          assistant(*assistant_model),
          engine(std::move(base_model), std::move(assistant_model), n_shared) {}
    explicit World(FakeModelOptions options = {})
        : World(random_model(1, options), random_model(2, options), options.n_vocab) {}

    Step step(Sequence& sequence, Router& router) { return engine.step(sequence, router, interrupt); }
    std::vector<Step> steps(Sequence& sequence, Router& router, std::size_t n) {
        std::vector<Step> all;
        while (all.size() < n) all.push_back(step(sequence, router));
        return all;
    }

    FakeModel& base;
    FakeModel& assistant;
    Engine engine;
    Interrupt interrupt;
};

Sources sources(const std::vector<Step>& steps) {
    Sources all;
    for (const Step& step : steps) all.push_back(step.source);
    return all;
}

// The method once more, without any state: whole texts in, one token out.
struct Naive {
    FakeModel::Function base;
    FakeModel::Function assistant;
    std::size_t n_shared = 0;
    Token defer_token = colm::kNoToken;  // the head is this token; otherwise it is the base's confidence
    double threshold = 0.5;
    StrategyOptions strategy = {};

    std::vector<float> masked(const FakeModel::Function& model, const Text& text) const {
        std::vector<float> logits = model(text);
        logits.resize(n_shared);
        if (defer_token >= 0 && static_cast<std::size_t>(defer_token) < n_shared)
            logits[static_cast<std::size_t>(defer_token)] = -reference::kInf;
        return logits;
    }

    Step step(const Text& text) const {
        const std::vector<float> base_logits = masked(base, text);
        const std::vector<double> p = reference::softmax(base_logits);
        Step s;
        if (defer_token >= 0)
            s.defer_logit = base(text)[static_cast<std::size_t>(defer_token)];
        else
            s.defer_logit = -reference::logit(p[reference::argmax(base_logits)]);
        s.threshold = threshold;
        std::vector<double> chosen = p;
        if (s.defer_logit > reference::logit(threshold)) {
            s.source = kAssistant;
            const std::vector<double> q = reference::softmax(masked(assistant, text));
            const double share = reference::sigmoid(s.defer_logit);
            const double q_top = *std::max_element(q.begin(), q.end());
            double sum = 0.0;
            for (std::size_t i = 0; i < n_shared; ++i) {
                if (strategy.strategy == Strategy::defer) chosen[i] = q[i];
                if (strategy.strategy == Strategy::compose) chosen[i] = (1.0 - share) * p[i] + share * q[i];
                if (strategy.strategy == Strategy::contrastive)
                    chosen[i] = q[i] < strategy.alpha * q_top || q[i] == 0.0
                                    ? 0.0
                                    : q[i] / std::pow(p[i], strategy.beta);
                sum += chosen[i];
            }
            for (double& value : chosen) value /= sum;
        }
        const auto top = std::max_element(chosen.begin(), chosen.end());
        s.token = static_cast<Token>(top - chosen.begin());
        s.logprob = std::log(*top);
        return s;
    }
};

void check_step(const Step& got, const Step& expected) {
    CHECK_EQ(got.token, expected.token);
    CHECK_EQ(got.source, expected.source);
    CHECK_NEAR(got.defer_logit, expected.defer_logit, 1e-5);
    CHECK_EQ(got.threshold, expected.threshold);
    CHECK_NEAR(got.logprob, expected.logprob, 1e-5);
}

std::shared_ptr<const colm::Head> confidence() { return colm::make_training_free_head("confidence"); }

}  // namespace

TEST(engine_agrees_with_the_naive_method) {
    const FakeModelOptions options;
    for (const auto strategy : {Strategy::defer, Strategy::compose, Strategy::contrastive}) {
        for (const Token defer_token : {colm::kNoToken, Token{3}, Token{7}}) {
            for (std::uint32_t seed = 10; seed < 20; ++seed) {
                for (const std::size_t n_shared : {std::size_t{7}, std::size_t{8}}) {
                    World w(random_model(seed), random_model(seed + 100), n_shared);
                    Naive naive{random_function(seed, 8), random_function(seed + 100, 8), n_shared,
                                defer_token};
                    naive.threshold = 0.5;
                    naive.strategy = {strategy, 0.7, 0.2};
                    std::shared_ptr<const colm::Head> head = confidence();
                    if (defer_token >= 0) head = std::make_shared<colm::TokenHead>(defer_token);
                    Router router = make_router(head, 0.5, naive.strategy);
                    Sequence sequence = make_sequence({1, 2, 3});
                    int n_deferred = 0;
                    for (int i = 0; i < 20; ++i) {
                        const Step expected = naive.step(sequence.tokens);
                        check_step(w.step(sequence, router), expected);
                        CHECK_EQ(sequence.tokens.back(), expected.token);
                        if (expected.source == kAssistant) ++n_deferred;
                    }
                    CHECK(n_deferred > 0);
                    CHECK(n_deferred < 20);
                    CHECK_EQ(sequence.stats.n_deferred, n_deferred);
                }
            }
        }
    }
}

TEST(engine_never_asks_the_assistant_without_need) {
    World w;
    Router router = make_router(confidence(), 1.0);
    Sequence sequence = make_sequence({1, 2, 3});
    CHECK_EQ(sources(w.steps(sequence, router, 3)), (Sources{kBase, kBase, kBase}));
    CHECK_EQ(w.assistant.log, Log{});
    CHECK_EQ(w.base.log.size(), 3);
    CHECK_EQ(w.base.log[0], "eval 0 [1, 2, 3] logits");
    CHECK_EQ(w.base.log[1], "eval 3 [" + std::to_string(sequence.tokens[3]) + "] logits");
    CHECK_EQ(sequence.stats.assistant_calls, 0);
    CHECK_EQ(sequence.stats.assistant_tokens_read, 0);
    CHECK_EQ(sequence.stats.n_deferred, 0);
    CHECK_EQ(sequence.stats.base_steps, 3);
    CHECK_EQ(sequence.stats.base_tokens_read, 5);
}

TEST(engine_asks_the_assistant_always) {
    World w;
    Router router = make_router(confidence(), 0.0);
    Sequence sequence = make_sequence({1, 2, 3});
    CHECK_EQ(sources(w.steps(sequence, router, 3)), (Sources{kAssistant, kAssistant, kAssistant}));
    CHECK_EQ(w.assistant.log, w.base.log);  // the base reads all the same
    CHECK_EQ(sequence.stats.n_deferred, 3);
    CHECK_EQ(sequence.stats.assistant_calls, 3);
    CHECK_EQ(sequence.stats.assistant_tokens_read, 5);
}

TEST(engine_assistant_reads_what_it_missed_in_one_go) {
    World w;
    Router router = make_router(defer_at({5, 9, 10}));
    Sequence sequence = make_sequence({1, 2, 3});
    const auto steps = w.steps(sequence, router, 8);
    const Text& t = sequence.tokens;
    CHECK_EQ(sources(steps),
             (Sources{kBase, kBase, kAssistant, kBase, kBase, kBase, kAssistant, kAssistant}));
    const auto read = [&](std::size_t from, std::size_t to) {
        const Text part(t.begin() + static_cast<std::ptrdiff_t>(from),
                        t.begin() + static_cast<std::ptrdiff_t>(to));
        return "eval " + std::to_string(from) + " " + check::show(part) + " logits";
    };
    CHECK_EQ(w.assistant.log, (Log{read(0, 5), read(5, 9), read(9, 10)}));
    CHECK_EQ(w.base.log.size(), 8);
    CHECK_EQ(sequence.stats.base_steps, 8);
    CHECK_EQ(sequence.stats.base_tokens_read, 10);
    CHECK_EQ(sequence.stats.assistant_calls, 3);
    CHECK_EQ(sequence.stats.assistant_tokens_read, 10);
    CHECK_EQ(sequence.stats.n_deferred, 3);
    CHECK_EQ(sequence.n_generated(), 8);

    // The schedule, base before assistant at each position.
    Sources models;
    for (const colm::DecodeCall& call : sequence.calls) models.push_back(call.model);
    CHECK_EQ(models, (Sources{kBase, kBase, kBase, kAssistant, kBase, kBase, kBase, kBase, kAssistant, kBase,
                              kAssistant}));
}

TEST(engine_assistant_batches_are_limited) {
    FakeModelOptions small;
    small.n_batch = 3;
    World w(random_model(1), random_model(2, small), 8);
    Router router = make_router(defer_at({10}));
    Sequence sequence = make_sequence({1, 2, 3});
    w.steps(sequence, router, 8);
    CHECK_EQ(w.assistant.log.size(), 4);
    CHECK_EQ(sequence.stats.assistant_calls, 1);  // one position, four decodes
    CHECK_EQ(sequence.stats.assistant_tokens_read, 10);
}

TEST(engine_masks_the_deferral_token_in_both) {
    // Both models want nothing but the deferral token.
    const auto logits = [](const Text&) { return std::vector<float>{0.0f, 1.0f, 50.0f, 0.5f}; };
    FakeModelOptions options;
    options.n_vocab = 4;
    for (const auto strategy : {Strategy::defer, Strategy::compose, Strategy::contrastive}) {
        for (const double threshold : {0.0, 1.0}) {
            World w(std::make_unique<FakeModel>(options, logits),
                    std::make_unique<FakeModel>(options, logits), 4);
            Router router =
                make_router(std::make_shared<colm::TokenHead>(2), threshold, {strategy, 0.5, 0.1});
            router.n_logprobs = 4;
            Sequence sequence = make_sequence({0});
            const Step step = w.step(sequence, router);
            CHECK_EQ(step.defer_logit, 50.0);  // read before it was masked
            CHECK_EQ(step.token, 1);
            CHECK_EQ(step.top_logprobs.size(), 3);
            CHECK_EQ(sampler(router).seen.size(), 4);
            CHECK_EQ(sampler(router).seen[2], -reference::kInf);
            double sum = 0.0;
            for (const auto& [token, logprob] : step.top_logprobs) {
                CHECK(token != 2);
                sum += std::exp(logprob);
            }
            CHECK_NEAR(sum, 1.0, 1e-6);
            CHECK_NEAR(step.logprob, step.top_logprobs[0].logprob, 1e-9);
        }
    }
}

TEST(engine_never_chooses_ids_that_are_not_shared) {
    // The likeliest id of each model lies in its tail; the deferral token in the base's, which is the longer.
    FakeModelOptions nine;
    nine.n_vocab = 9;
    FakeModelOptions six;
    six.n_vocab = 6;
    const auto base = [](const Text&) { return std::vector<float>{1, 2, 3, 0, 0, 9, 9, 9, 0.75f}; };
    const auto assistant = [](const Text&) { return std::vector<float>{1, 3, 2, 0, 0, 9}; };
    for (const auto strategy : {Strategy::defer, Strategy::compose, Strategy::contrastive}) {
        World w(std::make_unique<FakeModel>(nine, base), std::make_unique<FakeModel>(six, assistant), 5);
        Router router = make_router(std::make_shared<colm::TokenHead>(8), 0.0, {strategy, 0.5, 0.1});
        router.n_logprobs = 100;
        Sequence sequence = make_sequence({0});
        const Step step = w.step(sequence, router);
        CHECK_EQ(step.defer_logit, 0.75);
        CHECK(step.token < 3);
        CHECK_EQ(sampler(router).seen.size(), 5);
        CHECK(step.top_logprobs.size() <= 5);
        Router stay = make_router(std::make_shared<colm::TokenHead>(8), 1.0, {strategy, 0.5, 0.1});
        const Step base_step = w.step(sequence, stay);
        CHECK_EQ(base_step.token, 2);
        CHECK_NEAR(base_step.logprob, 3.0 - reference::log_sum({1, 2, 3, 0, 0}), 1e-6);
    }
}

TEST(engine_gives_the_head_what_it_asks_for) {
    World w;
    HeadInput seen;
    std::vector<float> top;
    std::vector<float> hidden;
    const auto head = std::make_shared<TestHead>([&](const HeadInput& input) {
        seen = input;
        top = input.distribution->top_logits;
        if (input.hidden != nullptr) hidden.assign(input.hidden, input.hidden + 3);
        return 0.25;
    });
    head->n_top = 3;
    head->token = 4;
    Router router = make_router(head);
    router.seed = 99;
    Sequence sequence = make_sequence({1, 2, 3});
    const Text prompt = sequence.tokens;
    const Step step = w.step(sequence, router);
    CHECK_EQ(step.defer_logit, 0.25);
    CHECK(seen.hidden == nullptr);
    CHECK_EQ(seen.position, 3);
    CHECK_EQ(seen.seed, 99);
    CHECK_EQ(seen.token_logit, random_function(1, 8)(prompt)[4]);
    CHECK_EQ(top.size(), 3);
    CHECK(!sequence.calls[0].hidden);

    head->hidden = true;
    const Text text = sequence.tokens;
    w.step(sequence, router);
    CHECK_EQ(hidden, random_function(1001, 3)(text));
    CHECK_EQ(seen.position, 4);
    const auto& calls = sequence.calls;
    CHECK_EQ(calls.size(), 4);
    CHECK(calls[2].model == kBase && calls[2].hidden);
    CHECK(calls[3].model == kAssistant && !calls[3].hidden);  // the assistant's never
}

TEST(engine_threshold_follows_what_was_generated) {
    World w;
    Router router = make_router(std::make_shared<TestHead>([](const HeadInput&) { return 0.0; }));
    router.policy = Policy(PolicyOptions{0.2, Schedule::linear, 4});
    Sequence sequence = make_sequence({1, 2, 3});
    const auto steps = w.steps(sequence, router, 6);
    const std::vector<double> expected = {1.0, 0.8, 0.6, 0.4, 0.2, 0.2};
    for (std::size_t i = 0; i < 6; ++i) {
        CHECK_NEAR(steps[i].threshold, expected[i], 1e-12);
        CHECK_EQ(steps[i].source, i < 3 ? kBase : kAssistant);
    }
}

TEST(engine_reports_the_likeliest_tokens) {
    World w;
    for (const double threshold : {0.0, 1.0}) {
        Router router = make_router(confidence(), threshold);
        router.n_logprobs = 3;
        Sequence sequence = make_sequence({1, 2, 3});
        const std::vector<float> logits = random_function(threshold == 0.0 ? 2 : 1, 8)(sequence.tokens);
        const Step step = w.step(sequence, router);
        CHECK_EQ(step.top_logprobs.size(), 3);
        CHECK_EQ(step.top_logprobs[0].token, step.token);
        CHECK(step.top_logprobs[1].logprob >= step.top_logprobs[2].logprob);
        for (const auto& [token, logprob] : step.top_logprobs)
            CHECK_NEAR(logprob, logits[static_cast<std::size_t>(token)] - reference::log_sum(logits), 1e-5);
        router.n_logprobs = 0;
        CHECK(w.step(sequence, router).top_logprobs.empty());
    }
}

TEST(engine_logprob_is_of_the_chosen_token) {
    struct Last final : colm::Sampler {
        Token choose(colm::View<const float> logits, const colm::Distribution&, std::size_t) override {
            return static_cast<Token>(logits.size - 1);
        }
        std::string why_none() const override { return {}; }
        void accept(Token) override {}
        std::unique_ptr<colm::Sampler> snapshot() const override { return nullptr; }
    };
    World w;
    Router router = make_router(confidence(), 0.0);
    router.sampler = std::make_unique<Last>();
    Sequence sequence = make_sequence({1, 2, 3});
    const std::vector<float> logits = random_function(2, 8)(sequence.tokens);
    CHECK_NEAR(w.step(sequence, router).logprob, logits[7] - reference::log_sum(logits), 1e-5);
    CHECK_EQ(sequence.tokens.back(), 7);
}

TEST(engine_tells_the_sampler_every_token) {
    World w;
    Router router = make_router(confidence());
    Sequence sequence = make_sequence({1, 2, 3});
    w.steps(sequence, router, 5);
    CHECK_EQ(sampler(router).accepted, Text(sequence.tokens.begin() + 3, sequence.tokens.end()));
}

TEST(engine_sequences_may_take_turns) {
    for (const bool can_rewind : {false, true}) {
        FakeModelOptions options;
        options.can_rewind = can_rewind;
        World w(options);
        Naive naive{random_function(1, 8), random_function(2, 8), 8};
        Sequence a = make_sequence({1, 2, 3, 4});
        Sequence b = make_sequence({1, 2, 5});
        Router router_a = make_router(confidence());
        Router router_b = make_router(confidence());
        reference::Random random(3);
        int n_deferred = 0;
        for (int i = 0; i < 40; ++i) {
            const bool first = random.chance(0.5);
            Sequence& sequence = first ? a : b;
            const Step expected = naive.step(sequence.tokens);
            check_step(w.step(sequence, first ? router_a : router_b), expected);
            if (expected.source == kAssistant) ++n_deferred;
        }
        CHECK(n_deferred > 3);
        CHECK_EQ(a.stats.n_deferred + b.stats.n_deferred, n_deferred);
        CHECK_EQ(a.stats.base_steps, a.n_generated());
        CHECK_EQ(b.stats.base_steps, b.n_generated());
        CHECK_EQ(w.base.n_read, a.stats.base_tokens_read + b.stats.base_tokens_read);
        CHECK_EQ(w.assistant.n_read, a.stats.assistant_tokens_read + b.stats.assistant_tokens_read);
    }
}

TEST(engine_steps_from_several_threads) {
    World w;
    const Naive naive{random_function(1, 8), random_function(2, 8), 8};
    std::vector<Sequence> sequences;
    for (const Token token : {1, 2, 3}) sequences.push_back(make_sequence({0, token}));
    std::vector<std::string> failures(3);
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < 3; ++i) {
        threads.emplace_back([&, i] {
            try {
                Router router = make_router(confidence());
                Interrupt interrupt;
                for (int n = 0; n < 50; ++n) {
                    const Step expected = naive.step(sequences[i].tokens);
                    check_step(w.engine.step(sequences[i], router, interrupt), expected);
                    if (n == 25) w.engine.reset();
                }
            } catch (const check::Failure& failure) {
                failures[i] = failure.message;
            } catch (const std::exception& error) {
                failures[i] = error.what();
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK_EQ(failures, (std::vector<std::string>(3)));
}

TEST(engine_disturbed_step_leaves_the_text_as_it_was) {
    const Naive naive{random_function(1, 8), random_function(2, 8), 8, colm::kNoToken, 1e-6};
    for (const bool in_assistant : {false, true}) {
        for (const bool cancelled : {false, true}) {
            World w;
            Router router = make_router(confidence(), 1e-6);
            Sequence sequence = make_sequence({1, 2, 3});
            w.step(sequence, router);
            const Text before = sequence.tokens;
            bool fail = true;
            (in_assistant ? w.assistant : w.base).on_eval = [&](std::size_t, Interrupt&) {
                if (!fail) return;
                fail = false;
                if (cancelled) throw Cancelled();
                throw GenerationError("decode failed");
            };
            if (cancelled)
                CHECK_THROWS(Cancelled, w.step(sequence, router), "");
            else
                CHECK_THROWS(GenerationError, w.step(sequence, router), "decode failed");
            CHECK_EQ(sequence.tokens, before);
            CHECK_EQ(sampler(router).accepted.size(), 1);
            CHECK_EQ(sequence.stats.n_deferred, 1);
            for (int i = 0; i < 3; ++i) {
                const Step expected = naive.step(sequence.tokens);
                check_step(w.step(sequence, router), expected);
            }
        }
    }
}

TEST(engine_failures_of_head_and_sampler_leave_the_text_as_it_was) {
    World w;
    double z = reference::kNanD;
    Router router = make_router(std::make_shared<TestHead>([&](const HeadInput&) { return z; }));
    Sequence sequence = make_sequence({1, 2, 3});
    CHECK_THROWS(GenerationError, w.step(sequence, router), "deferral logit is NaN");
    CHECK_EQ(sequence.tokens, (Text{1, 2, 3}));
    z = 1.0;
    sampler(router).on_choose = [] { throw GenerationError("no token is allowed"); };
    CHECK_THROWS(GenerationError, w.step(sequence, router), "no token is allowed");
    CHECK_EQ(sequence.tokens, (Text{1, 2, 3}));
    CHECK(sampler(router).accepted.empty());
    CHECK_EQ(sequence.stats.n_deferred, 0);
    sampler(router).on_choose = {};
    CHECK_EQ(w.step(sequence, router).token, reference::argmax(random_function(2, 8)({1, 2, 3})));
}

TEST(engine_without_an_allowed_token) {
    for (const double threshold : {0.0, 1.0}) {
        World w;
        Router router = make_router(confidence(), threshold);
        sampler(router).banned = {0, 1, 2, 3, 4, 5, 6, 7};
        Sequence sequence = make_sequence({1, 2, 3});
        CHECK_THROWS(GenerationError, w.step(sequence, router), "every token is banned");
        CHECK_EQ(sequence.tokens.size(), 3);
        CHECK(sampler(router).accepted.empty());
        sampler(router).banned = {};
        w.step(sequence, router);
    }
}

TEST(engine_contrastive_falls_back_on_the_assistant) {
    // The cutoff leaves token 1 alone, and that is banned.
    FakeModelOptions options;
    options.n_vocab = 4;
    const auto base = [](const Text&) { return std::vector<float>{3.0f, 0.0f, 0.0f, 0.0f}; };
    const auto assistant = [](const Text&) { return std::vector<float>{0.0f, 20.0f, 1.0f, 2.0f}; };
    World w(std::make_unique<FakeModel>(options, base), std::make_unique<FakeModel>(options, assistant), 4);
    Router router = make_router(confidence(), 0.0, {Strategy::contrastive, 0.5, 0.1});
    router.n_logprobs = 4;
    Sequence sequence = make_sequence({1});
    CHECK_EQ(w.step(sequence, router).token, 1);
    sampler(router).banned = {1};
    const Step step = w.step(sequence, router);
    CHECK_EQ(step.token, 3);
    CHECK_EQ(step.source, kAssistant);
    CHECK_NEAR(step.logprob, -18.0, 1e-5);  // of the assistant's own distribution
    CHECK_EQ(step.top_logprobs.size(), 4);
    // A mixture rules nothing out, so there is nothing to fall back on.
    Router compose = make_router(confidence(), 0.0, {Strategy::compose, 0.5, 0.1});
    sampler(compose).banned = {0, 1, 2, 3};
    CHECK_THROWS(GenerationError, w.step(sequence, compose), "every token is banned");
}

TEST(engine_never_chooses_blocked_tokens) {
    FakeModelOptions options;
    options.n_vocab = 4;
    const auto logits = [](const Text&) { return std::vector<float>{9.0f, 1.0f, 8.0f, 0.0f}; };
    for (const double threshold : {0.0, 1.0}) {
        Engine engine(std::make_unique<FakeModel>(options, logits),
                      std::make_unique<FakeModel>(options, logits), 4, {0, 2});
        Router router = make_router(confidence(), threshold);
        router.n_logprobs = 4;
        Sequence sequence = make_sequence({1});
        Interrupt interrupt;
        const Step step = engine.step(sequence, router, interrupt);
        CHECK_EQ(step.token, 1);
        CHECK_EQ(step.top_logprobs.size(), 2);
        CHECK_NEAR(step.logprob, 1.0 - reference::log_sum({1.0f, 0.0f}), 1e-6);
        CHECK_NEAR(step.defer_logit, -1.0, 1e-6);  // the head does not see them either
    }
}

TEST(engine_refuses_a_step_within_a_step) {
    // As a signal handler might try: waiting for itself would take forever.
    World w;
    Router router = make_router(confidence(), 1.0);
    Router other_router = make_router(confidence(), 1.0);
    Sequence sequence = make_sequence({1, 2, 3});
    Sequence other = make_sequence({4});
    int n_refused = 0;
    sampler(router).on_choose = [&] {
        CHECK_THROWS(GenerationError, w.step(other, other_router), "in this very thread");
        CHECK_THROWS(GenerationError, (w.engine.reset(), 0), "in this very thread");
        ++n_refused;
    };
    CHECK_EQ(w.step(sequence, router).token, reference::argmax(random_function(1, 8)({1, 2, 3})));
    CHECK_EQ(n_refused, 1);
    CHECK_EQ(other.tokens, Text{4});
    w.step(other, other_router);  // and afterwards it may
    sampler(router).on_choose = [] { throw GenerationError("failed"); };
    CHECK_THROWS(GenerationError, w.step(sequence, router), "failed");
    w.step(other, other_router);  // also after a failure
}

TEST(engine_damaged_models_are_errors) {
    for (const bool in_assistant : {false, true}) {
        auto base = random_model(1);
        auto assistant = random_model(2);
        (in_assistant ? assistant : base) = std::make_unique<FakeModel>(
            FakeModelOptions{}, [](const Text&) { return std::vector<float>(8, -reference::kInf); });
        World w(std::move(base), std::move(assistant), 8);
        Router router = make_router(confidence(), 0.0);
        Sequence sequence = make_sequence({1, 2, 3});
        CHECK_THROWS(GenerationError, w.step(sequence, router), "no token can follow");
        CHECK_EQ(sequence.tokens.size(), 3);
    }
}

TEST(engine_context_is_the_smaller) {
    FakeModelOptions small;
    small.n_ctx = 20;
    CHECK_EQ(World(random_model(1), random_model(2, small), 8).engine.n_ctx(), 20);
    CHECK_EQ(World(random_model(1, small), random_model(2), 8).engine.n_ctx(), 20);
    // A text that fills it still has a next token.
    World w(small);
    Router router = make_router(confidence(), 0.0);
    Sequence sequence = make_sequence(Text(20, 1));
    w.step(sequence, router);
    CHECK_EQ(sequence.tokens.size(), 21);
}

TEST(engine_reset_forgets_both) {
    World w;
    Router router = make_router(confidence(), 0.0);
    Sequence sequence = make_sequence({1, 2, 3});
    w.step(sequence, router);
    CHECK_EQ(w.engine.base().held(), (Text{1, 2, 3}));
    CHECK_EQ(w.engine.assistant().held(), (Text{1, 2, 3}));
    w.engine.reset();
    CHECK(w.engine.base().held().empty());
    CHECK(w.engine.assistant().held().empty());
    w.base.take_log();
    w.assistant.take_log();
    Sequence again = make_sequence({1, 2, 3});
    w.step(again, router);
    CHECK_EQ(w.base.log, (Log{"eval 0 [1, 2, 3] logits"}));
    CHECK_EQ(w.assistant.log, w.base.log);
    CHECK_EQ(again.tokens, sequence.tokens);
}

TEST(engine_tells_prompt_time_from_the_rest) {
    // Each model's first decode takes 20 ms, the third position is the first that is deferred.
    World w;
    const auto slow_first = [](std::size_t i, Interrupt&) {
        if (i == 0) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    };
    w.base.on_eval = slow_first;
    w.assistant.on_eval = slow_first;
    Router router = make_router(defer_at({5, 6}));
    Sequence sequence = make_sequence({1, 2, 3});
    const colm::Stats& stats = sequence.stats;
    w.step(sequence, router);
    CHECK(stats.prefill_s >= 0.02);
    const double first = stats.prefill_s;
    w.step(sequence, router);
    CHECK_EQ(stats.prefill_s, first);
    CHECK(stats.decode_s > 0.0);
    w.step(sequence, router);
    CHECK(stats.prefill_s >= first + 0.02);
    const double both = stats.prefill_s;
    const double decode = stats.decode_s;
    w.step(sequence, router);
    CHECK_EQ(stats.prefill_s, both);
    CHECK(stats.decode_s > decode);
}

TEST(engine_never_asks_the_base_where_nothing_depends_on_it) {
    World world;
    Sequence sequence = make_sequence({1, 2, 3});
    Router router = make_router(colm::make_training_free_head("always"));
    const std::vector<Step> steps = world.steps(sequence, router, 3);
    CHECK_EQ(sources(steps), (Sources{kAssistant, kAssistant, kAssistant}));
    CHECK_EQ(world.base.log, Log{});
    CHECK_EQ(sequence.stats.base_steps, 0U);
    CHECK_EQ(sequence.stats.base_tokens_read, 0U);
    CHECK_EQ(sequence.stats.assistant_calls, 3U);
    CHECK(steps[0].defer_logit == reference::kInfD);
}

TEST(engine_asks_the_base_of_an_always_deferring_head_where_the_strategy_mixes) {
    World world;
    Sequence sequence = make_sequence({1, 2, 3});
    StrategyOptions mixing;
    mixing.strategy = Strategy::contrastive;
    Router router = make_router(colm::make_training_free_head("always"), 0.5, mixing);
    world.steps(sequence, router, 2);
    CHECK_EQ(sequence.stats.base_steps, 2U);
    CHECK_EQ(sequence.stats.assistant_calls, 2U);
}

TEST(engine_lets_the_threshold_overrule_fixed_heads) {
    World world;
    Sequence sequence = make_sequence({1, 2, 3});
    Router base_alone = make_router(colm::make_training_free_head("always"), 1.0);
    CHECK(world.step(sequence, base_alone).source == kBase);
    Router assistant_alone = make_router(colm::make_training_free_head("never"), 0.0);
    CHECK(world.step(sequence, assistant_alone).source == kAssistant);
    CHECK_EQ(sequence.stats.base_steps, 1U);
    Router never = make_router(colm::make_training_free_head("never"));
    CHECK(world.step(sequence, never).source == kBase);
}

TEST(engine_steers_to_the_target_rate) {
    FakeModelOptions options;
    options.n_ctx = 400;
    World world(options);
    Sequence sequence = make_sequence({1, 2, 3});
    PolicyOptions policy;
    policy.target_rate = 0.3;
    Router router{colm::make_training_free_head("confidence"), Policy(policy), colm::Mixer({}),
                  std::make_unique<GreedySampler>()};
    world.steps(sequence, router, 300);
    CHECK_NEAR(static_cast<double>(sequence.stats.n_deferred) / 300.0, 0.3, 0.03);
}
