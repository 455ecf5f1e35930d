// Runs: how long the assistant keeps its turn, in the policy and in both ways to write.
#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "colm/draft.h"
#include "colm/engine.h"
#include "colm/error.h"
#include "colm/scheduler.h"
#include "fake_batch_model.h"
#include "fake_model.h"
#include "reference.h"

using colm::Draft;
using colm::Engine;
using colm::Interrupt;
using colm::kAutoLookahead;
using colm::OptionError;
using colm::Policy;
using colm::PolicyOptions;
using colm::Router;
using colm::Sequence;
using colm::Source;
using colm::Step;
using colm::Strategy;
using colm::StrategyOptions;
using colm::Token;
using colm::Writing;
using reference::kNanD;

namespace {

constexpr std::size_t kVocab = 8;
constexpr Token kEnd = 0;

PolicyOptions runs(int hold, std::optional<double> leave = std::nullopt, double threshold = 0.5) {
    PolicyOptions options;
    options.threshold = threshold;
    options.hold = hold;
    options.leave_threshold = leave;
    return options;
}

// Who writes each token, one letter each; '-' after a letter where the head was not asked.
std::string written_by(const PolicyOptions& options, const std::vector<double>& z) {
    Policy policy(options);
    std::string text;
    std::size_t n_deferred = 0;
    for (std::size_t t = 0; t < z.size(); ++t) {
        const bool held = policy.holds();
        const bool deferred = held || Policy::defers(z[t], policy.threshold_at(t, n_deferred));
        if (deferred) ++n_deferred;
        policy.observe(held ? kNanD : z[t], deferred);
        text += deferred ? "a" : "b";
        if (held) text += "-";
    }
    return text;
}

// A head of the base's confidence that counts how often it is asked.
struct CountingHead final : colm::Head {
    double defer_logit(const colm::HeadInput& input) const override {
        ++n_asked;
        return -input.distribution->log_odds();
    }
    bool needs_hidden() const override { return hidden; }

    bool hidden = false;
    mutable std::size_t n_asked = 0;
};

struct Case {
    std::uint32_t seed = 1;
    PolicyOptions policy = {};
    StrategyOptions strategy = {};
    std::string head = "confidence";  // "": a CountingHead with the hidden state
    std::size_t limit = 40;
    bool ends = true;
};

Router make_router(const Case& c) {
    std::shared_ptr<const colm::Head> head = colm::make_training_free_head(c.head);
    if (!head) {
        auto counting = std::make_shared<CountingHead>();
        counting->hidden = true;
        head = counting;
    }
    return Router{std::move(head), Policy(c.policy), colm::Mixer(c.strategy),
                  std::make_unique<GreedySampler>(), c.seed};
}

struct Written {
    std::vector<Step> steps;
    Sequence sequence;
};

// The text of one engine; the models' functions are those of `seed`.
Written write(const Case& c, std::optional<int> lookahead = std::nullopt, FakeModelOptions options = {}) {
    Engine engine(random_model(c.seed, options), random_model(c.seed + 7, options), kVocab);
    Router router = make_router(c);
    Written written;
    Sequence& sequence = written.sequence;
    sequence.tokens = {1, 2, 3};
    sequence.n_prompt = 3;
    Interrupt interrupt;
    const auto ends = [&](Token token) { return c.ends && token == kEnd; };
    std::optional<Draft> draft;
    if (lookahead) draft.emplace(sequence, *lookahead, c.limit, ends);
    while (sequence.tokens.size() < c.limit && (written.steps.empty() || !ends(written.steps.back().token)))
        written.steps.push_back(draft ? engine.step(sequence, router, *draft, interrupt)
                                      : engine.step(sequence, router, interrupt));
    return written;
}

void check_same(const std::vector<Step>& got, const std::vector<Step>& expected) {
    CHECK_EQ(got.size(), expected.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
        CHECK_EQ(got[i].token, expected[i].token);
        CHECK_EQ(got[i].source, expected[i].source);
        CHECK_EQ(got[i].threshold, expected[i].threshold);
        CHECK_EQ(got[i].logprob, expected[i].logprob);
        CHECK_EQ(std::isnan(got[i].defer_logit), std::isnan(expected[i].defer_logit));
        if (!std::isnan(got[i].defer_logit)) CHECK_EQ(got[i].defer_logit, expected[i].defer_logit);
    }
}

Case random_case(std::uint32_t seed) {
    reference::Random random(seed);
    Case c;
    c.seed = seed;
    const std::vector<std::string> heads = {"confidence", "", "entropy", "random", "always", "never"};
    c.head = heads[random.below(heads.size())];
    const double thresholds[] = {0.0, 0.3, 0.5, 0.6, 1.0};
    c.policy = runs(1 + static_cast<int>(random.below(6)), std::nullopt, thresholds[random.below(5)]);
    if (random.chance(0.5)) c.policy.leave_threshold = random.between(0.0, 1.0);
    if (random.chance(0.25)) {
        c.policy.schedule = colm::Schedule::linear;
        c.policy.schedule_tokens = 12;
    } else if (random.chance(0.4)) {
        c.policy.target_rate = 0.4;
    }
    const Strategy strategies[] = {Strategy::defer, Strategy::defer, Strategy::compose,
                                   Strategy::contrastive};
    c.strategy.strategy = strategies[random.below(4)];
    c.ends = random.chance(0.3);
    c.limit = 4 + random.below(50);
    return c;
}

}  // namespace

TEST(runs_hold_lasts_that_many_tokens) {
    const std::vector<double> z = {-1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1};
    CHECK_EQ(written_by(runs(1), z), "babbbbaaaab");
    CHECK_EQ(written_by(runs(3), z), "baa-a-bbaa-a-aa-");
    CHECK_EQ(written_by(runs(100), z), "baa-a-a-a-a-a-a-a-a-");
}

TEST(runs_a_new_decision_begins_a_new_hold) {
    CHECK_EQ(written_by(runs(2), {1, 9, 1, 9, -1, 9, 1}), "aa-aa-baa-");
}

TEST(runs_leave_threshold_is_asked_behind_the_assistant_alone) {
    // Enter above 0.8 (z > 1.39), leave at 0.3 (z <= -0.85).
    const std::vector<double> z = {0, 1.3, 1.5, 0, -0.8, -0.9, 0, 1.5, -3};
    CHECK_EQ(written_by(runs(1, 0.3, 0.8), z), "bbaaabbab");
    CHECK_EQ(written_by(runs(1, std::nullopt, 0.8), z), "bbabbbbab");
    // Above the threshold it counts as the threshold.
    CHECK_EQ(written_by(runs(1, 0.95, 0.8), {1.5, 1.5, 1.3}), "aab");
    // With a hold, the head is asked behind each one.
    CHECK_EQ(written_by(runs(2, 0.3, 0.8), z), "bbaa-aa-aa-b");
}

TEST(runs_schedule_and_target_rate_move_both_thresholds) {
    PolicyOptions options = runs(1, 0.2, 0.6);
    options.schedule = colm::Schedule::linear;
    options.schedule_tokens = 10;
    Policy scheduled(options);
    CHECK_NEAR(scheduled.threshold_at(5, 0), 0.8, 1e-15);
    scheduled.observe(9.0, true);
    CHECK_NEAR(scheduled.threshold_at(5, 0), 0.6, 1e-15);
    CHECK_NEAR(scheduled.threshold_at(10, 0), 0.2, 1e-15);

    options = runs(4, 0.2, 0.6);
    options.target_rate = 0.25;
    Policy steered(options);
    // 8 deferred of 16 where 4 are wanted: the gain is half of that without a hold.
    CHECK_NEAR(steered.threshold_at(16, 8), reference::sigmoid(reference::logit(0.6) + 1.5), 1e-12);
    steered.observe(kNanD, true);
    CHECK_NEAR(steered.threshold_at(16, 8), reference::sigmoid(reference::logit(0.2) + 1.5), 1e-12);
}

TEST(runs_target_rate_counts_held_tokens) {
    for (const int hold : {1, 2, 4, 8})
        for (const std::optional<double> leave : {std::optional<double>(), std::optional<double>(0.3)}) {
            PolicyOptions options = runs(hold, leave);
            options.target_rate = 0.2;
            Policy policy(options);
            reference::Random random(11);
            std::size_t n_deferred = 0;
            const std::size_t n = 2000;
            for (std::size_t t = 0; t < n; ++t) {
                const double z = random.between(-4.0, 1.0);
                const bool held = policy.holds();
                const bool deferred = held || Policy::defers(z, policy.threshold_at(t, n_deferred));
                if (deferred) ++n_deferred;
                policy.observe(held ? kNanD : z, deferred);
            }
            CHECK_NEAR(static_cast<double>(n_deferred) / static_cast<double>(n), 0.2, 0.02);
        }
}

TEST(runs_options_are_checked) {
    for (const int hold : {0, -1}) CHECK_THROWS(OptionError, Policy(runs(hold)), "hold is");
    for (const double leave : {-0.1, 1.1, kNanD})
        CHECK_THROWS(OptionError, Policy(runs(1, leave)), "leave_threshold is");
}

TEST(runs_the_base_reads_nothing_in_a_hold_and_then_all_of_it) {
    for (const bool hidden : {false, true}) {
        auto base_model = random_model(1);
        FakeModel& base = *base_model;
        Engine engine(std::move(base_model), random_model(2), kVocab);
        auto head = std::make_shared<CountingHead>();
        head->hidden = hidden;
        Router router{head, Policy(runs(4, std::nullopt, 0.0)), colm::Mixer(StrategyOptions{}),
                      std::make_unique<GreedySampler>()};
        Sequence sequence;
        sequence.tokens = {1, 2, 3};
        sequence.n_prompt = 3;
        Interrupt interrupt;
        for (int i = 0; i < 4; ++i) {
            const Step step = engine.step(sequence, router, interrupt);
            CHECK_EQ(step.source, Source::assistant);
            CHECK_EQ(std::isnan(step.defer_logit), i > 0);
        }
        CHECK_EQ(head->n_asked, 1U);
        CHECK_EQ(base.n_read, 3U);
        base.take_log();
        engine.step(sequence, router, interrupt);
        CHECK_EQ(head->n_asked, 2U);
        // One decode reads the run.
        const std::vector<std::string> log = base.take_log();
        CHECK_EQ(log.size(), 1U);
        CHECK(log.front().rfind("eval 3 ", 0) == 0);
        CHECK_EQ(base.n_read, 7U);
        CHECK_EQ(sequence.stats.base_steps, 2U);
        CHECK_EQ(sequence.stats.n_deferred, 5U);
        CHECK_EQ(sequence.calls.back().model, Source::assistant);
    }
}

TEST(runs_longer_than_the_outputs_are_read_in_two_batches) {
    FakeModelOptions options;
    options.n_outputs = 3;
    Case c;
    c.policy = runs(5, std::nullopt, 0.0);
    c.head = "";
    c.ends = false;
    c.limit = 10;
    std::vector<std::int32_t> sizes;
    for (const colm::DecodeCall& call : write(c, std::nullopt, options).sequence.calls)
        if (call.model == Source::base) sizes.push_back(call.n_tokens);
    CHECK_EQ(sizes, (std::vector<std::int32_t>{2, 1, 4, 1}));
}

TEST(runs_mixtures_hear_the_base_in_a_hold) {
    for (const Strategy strategy : {Strategy::compose, Strategy::contrastive}) {
        Case c;
        c.policy = runs(3, std::nullopt, 0.6);
        c.strategy.strategy = strategy;
        c.ends = false;
        const Written written = write(c);
        std::size_t n_below = 0;
        for (const Step& step : written.steps) {
            CHECK(std::isfinite(step.defer_logit));
            const bool above = Policy::defers(step.defer_logit, step.threshold);
            if (step.source == Source::assistant && !above) ++n_below;
        }
        CHECK(n_below > 0);  // the assistant's all the same
        CHECK_EQ(written.sequence.stats.base_steps, written.steps.size());
    }
}

TEST(runs_with_lookahead_are_those_of_the_plain_path) {
    std::size_t n_drafted = 0;
    std::size_t n_held = 0;
    for (std::uint32_t seed = 1; seed <= 500; ++seed) {
        const Case c = random_case(seed);
        const std::vector<Step> expected = write(c).steps;
        for (const Step& step : expected) n_held += std::isnan(step.defer_logit) ? 1 : 0;
        for (const int lookahead : {0, 1, 3, colm::kMostLookahead, kAutoLookahead}) {
            const Written written = write(c, lookahead);
            check_same(written.steps, expected);
            n_drafted += written.sequence.stats.n_drafted;
        }
    }
    CHECK(n_drafted > 1000);
    CHECK(n_held > 300);
}

TEST(runs_of_many_texts_are_those_of_each_alone) {
    FakeBatchOptions options;
    options.n_vocab = kVocab;
    options.n_ctx = 192;
    options.n_sequences = 3;
    std::size_t n_held = 0;
    for (std::uint32_t seed = 1; seed <= 60; ++seed) {
        auto base = std::make_shared<FakeBatchModel>(options, random_function(seed, kVocab),
                                                     random_function(seed + 1000, options.n_embd));
        auto assistant = std::make_shared<FakeBatchModel>(options, random_function(seed + 7, kVocab));
        colm::Scheduler scheduler(base, assistant, {kVocab, {}});
        std::vector<Case> cases;
        for (std::size_t i = 0; i < 5; ++i) {
            Case c = random_case(seed * 100 + static_cast<std::uint32_t>(i));
            c.seed = seed;
            c.limit = std::min<std::size_t>(c.limit, scheduler.n_ctx());
            cases.push_back(c);
            Writing::Limits limits{static_cast<int>(c.limit) - 3, {}};
            scheduler.add(i, Writing(
                                 {1, 2, 3}, scheduler.n_ctx(), make_router(c), limits,
                                 [](Token token) { return std::to_string(token); },
                                 [ends = c.ends](Token token) { return ends && token == kEnd; }));
        }
        Interrupt interrupt;
        while (auto finished = scheduler.next(interrupt)) {
            CHECK(!finished->error);
            const Written alone = write(cases[finished->number]);
            CHECK_EQ(finished->writing.sequence().tokens, alone.sequence.tokens);
            CHECK_EQ(finished->writing.sequence().stats.base_steps, alone.sequence.stats.base_steps);
            std::vector<Step> steps;
            while (!finished->writing.empty()) steps.push_back(finished->writing.pop().step);
            if (finished->writing.end_step()) steps.push_back(*finished->writing.end_step());
            check_same(steps, alone.steps);
            for (const Step& step : steps) n_held += std::isnan(step.defer_logit) ? 1 : 0;
        }
    }
    CHECK(n_held > 100);
}

TEST(runs_go_on_behind_a_cancelled_step) {
    Case c;
    c.policy = runs(4, std::nullopt, 0.6);
    c.ends = false;
    const std::vector<Step> expected = write(c).steps;
    // Cancel in the middle of every decode once, and write on.
    for (std::size_t at = 0; at < 30; ++at) {
        auto base = random_model(c.seed);
        auto assistant = random_model(c.seed + 7);
        std::size_t n_evals = 0;
        const auto cancel = [&](std::size_t, Interrupt& interrupt) {
            if (n_evals++ != at) return;
            interrupt.request();
            throw colm::Cancelled();
        };
        base->on_eval = cancel;
        assistant->on_eval = cancel;
        Engine engine(std::move(base), std::move(assistant), kVocab);
        Router router = make_router(c);
        Sequence sequence;
        sequence.tokens = {1, 2, 3};
        sequence.n_prompt = 3;
        std::vector<Step> steps;
        std::size_t n_cancelled = 0;
        while (sequence.tokens.size() < c.limit) {
            Interrupt interrupt;
            try {
                steps.push_back(engine.step(sequence, router, interrupt));
            } catch (const colm::Cancelled&) {
                ++n_cancelled;
            }
        }
        CHECK_EQ(n_cancelled, 1U);
        check_same(steps, expected);
    }
}
