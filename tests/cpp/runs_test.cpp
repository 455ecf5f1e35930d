// Runs of an assistant's tokens: how long they last, and what is read for them. That they are the same with
// look-ahead and among other texts is what loop_test.cpp says, whose cases have them too.
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "world.h"

using colm::kBase;
using colm::OptionError;
using colm::Policy;
using colm::PolicyOptions;
using colm::Step;
using colm::Strategy;
using reference::kNanD;

namespace {

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
        const bool held = policy.held_by() != 0;
        const bool deferred = held || Policy::defers(z[t], policy.threshold_at(t, n_deferred));
        if (deferred) ++n_deferred;
        policy.observe(held ? kNanD : z[t], deferred ? 1 : 0);
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

// Everything is deferred, in runs of `hold` tokens.
Job job_of(int hold, HeadPtr head, int max_tokens) {
    Job job;
    job.prompt = {10, 11, 12};
    job.head = std::move(head);
    job.policy = runs(hold, std::nullopt, 0.0);
    job.max_tokens = max_tokens;
    job.banned = {kEnd};
    return job;
}

}  // namespace

TEST_CASE("runs: hold lasts that many tokens") {
    const std::vector<double> z = {-1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1};
    REQUIRE_EQ(written_by(runs(1), z), "babbbbaaaab");
    REQUIRE_EQ(written_by(runs(3), z), "baa-a-bbaa-a-aa-");
    REQUIRE_EQ(written_by(runs(100), z), "baa-a-a-a-a-a-a-a-a-");
}

TEST_CASE("runs: a new decision begins a new hold") {
    REQUIRE_EQ(written_by(runs(2), {1, 9, 1, 9, -1, 9, 1}), "aa-aa-baa-");
}

TEST_CASE("runs: leave threshold is asked behind the assistant alone") {
    // Enter above 0.8 (z > 1.39), leave at 0.3 (z <= -0.85).
    const std::vector<double> z = {0, 1.3, 1.5, 0, -0.8, -0.9, 0, 1.5, -3};
    REQUIRE_EQ(written_by(runs(1, 0.3, 0.8), z), "bbaaabbab");
    REQUIRE_EQ(written_by(runs(1, std::nullopt, 0.8), z), "bbabbbbab");
    // Above the threshold it counts as the threshold.
    REQUIRE_EQ(written_by(runs(1, 0.95, 0.8), {1.5, 1.5, 1.3}), "aab");
    // With a hold, the head is asked behind each one.
    REQUIRE_EQ(written_by(runs(2, 0.3, 0.8), z), "bbaa-aa-aa-b");
}

TEST_CASE("runs: schedule and target rate move both thresholds") {
    PolicyOptions options = runs(1, 0.2, 0.6);
    options.schedule = colm::Schedule::linear;
    options.schedule_tokens = 10;
    Policy scheduled(options);
    REQUIRE_EQ(scheduled.threshold_at(5, 0), about(0.8, 1e-15));
    scheduled.observe(9.0, 1);
    REQUIRE_EQ(scheduled.threshold_at(5, 0), about(0.6, 1e-15));
    REQUIRE_EQ(scheduled.threshold_at(10, 0), about(0.2, 1e-15));

    options = runs(4, 0.2, 0.6);
    options.target_rate = 0.25;
    Policy steered(options);
    // 8 deferred of 16 where 4 are wanted: the gain is half of that without a hold.
    REQUIRE_EQ(steered.threshold_at(16, 8), about(reference::sigmoid(reference::logit(0.6) + 1.5), 1e-12));
    steered.observe(kNanD, 1);
    REQUIRE_EQ(steered.threshold_at(16, 8), about(reference::sigmoid(reference::logit(0.2) + 1.5), 1e-12));
}

TEST_CASE("runs: target rate counts held tokens") {
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
                const bool held = policy.held_by() != 0;
                const bool deferred = held || Policy::defers(z, policy.threshold_at(t, n_deferred));
                if (deferred) ++n_deferred;
                policy.observe(held ? kNanD : z, deferred ? 1 : 0);
            }
            REQUIRE_EQ(static_cast<double>(n_deferred) / static_cast<double>(n), about(0.2, 0.02));
        }
}

TEST_CASE("runs: options are checked") {
    for (const int hold : {0, -1})
        REQUIRE_THROWS_WITH_AS(Policy(runs(hold)), doctest::Contains("hold is"), OptionError);
    for (const double leave : {-0.1, 1.1, kNanD})
        REQUIRE_THROWS_WITH_AS(Policy(runs(1, leave)), doctest::Contains("leave_threshold is"), OptionError);
}

TEST_CASE("runs: the base reads nothing in a hold and then all of it") {
    for (const bool hidden : {false, true}) {
        auto head = std::make_shared<CountingHead>();
        head->hidden = hidden;
        Limits limits;
        limits.n_slots = 1;
        World w(Models(), limits);
        w.add(std::vector<Job>{job_of(4, head, 5)});
        for (std::size_t i = 0; i < 4; ++i) {
            w.step();
            const Step& step = w.written[0].steps.at(i).step;
            REQUIRE_EQ(step.expert, 1);
            REQUIRE_EQ(std::isnan(step.defer_logit), i > 0);
        }
        REQUIRE_EQ(head->n_asked, 1U);
        REQUIRE_EQ(w.base->n_read, 3U);
        w.base->take_log();
        w.run();
        REQUIRE_EQ(head->n_asked, 2U);
        // One decode reads the run.
        const std::vector<std::string> log = w.base->take_log();
        REQUIRE_EQ(log.size(), 1U);
        REQUIRE(log.front().rfind("0@3: ", 0) == 0);
        REQUIRE_EQ(w.base->n_read, 7U);
        REQUIRE_EQ(w.written[0].sequence.stats.of(0).calls, 2U);
        REQUIRE_EQ(w.written[0].sequence.stats.n_deferred, 5U);
    }
}

TEST_CASE("runs: longer than the outputs are read in two batches") {
    auto head = std::make_shared<CountingHead>();
    head->hidden = true;
    Limits limits;
    limits.n_slots = 1;
    limits.base_batch = 3;
    World w(Models(), limits);
    w.add(std::vector<Job>{job_of(5, head, 7)});
    w.run();
    std::vector<std::int32_t> sizes;
    for (const colm::DecodeCall& call : w.written[0].sequence.calls)
        if (call.expert == kBase) sizes.push_back(call.n_tokens);
    REQUIRE_EQ(sizes, (std::vector<std::int32_t>{2, 1, 3, 1, 1}));
}

TEST_CASE("runs: mixtures hear the base in a hold") {
    for (const Strategy strategy : {Strategy::compose, Strategy::contrastive}) {
        Job job = job_of(3, named("confidence"), 30);
        job.policy.threshold = 0.75;
        job.strategy.strategy = strategy;
        World w{Models()};
        w.add(std::vector<Job>{job});
        w.run();
        const Written& written = w.written[0];
        check_text(written, write_alone(Models(), job, w.loop->n_ctx()));
        std::size_t n_below = 0;
        for (const auto& [step, text] : written.steps) {
            REQUIRE(std::isfinite(step.defer_logit));
            const bool above = Policy::defers(step.defer_logit, step.threshold);
            if (step.expert != kBase && !above) ++n_below;
        }
        REQUIRE(n_below > 0);  // the assistant's all the same
        REQUIRE_EQ(written.sequence.stats.of(0).calls, written.steps.size());
    }
}
