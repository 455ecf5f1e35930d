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
        auto head = std::make_shared<CountingHead>();
        head->hidden = hidden;
        Limits limits;
        limits.n_slots = 1;
        World w(Models(), limits);
        w.add(std::vector<Job>{job_of(4, head, 5)});
        for (std::size_t i = 0; i < 4; ++i) {
            w.step();
            const Step& step = w.written[0].steps.at(i).step;
            CHECK_EQ(step.expert, 1);
            CHECK_EQ(std::isnan(step.defer_logit), i > 0);
        }
        CHECK_EQ(head->n_asked, 1U);
        CHECK_EQ(w.base->n_read, 3U);
        w.base->take_log();
        w.run();
        CHECK_EQ(head->n_asked, 2U);
        // One decode reads the run.
        const std::vector<std::string> log = w.base->take_log();
        CHECK_EQ(log.size(), 1U);
        CHECK(log.front().rfind("0@3: ", 0) == 0);
        CHECK_EQ(w.base->n_read, 7U);
        CHECK_EQ(w.written[0].sequence.stats.base_steps, 2U);
        CHECK_EQ(w.written[0].sequence.stats.n_deferred, 5U);
    }
}

TEST(runs_longer_than_the_outputs_are_read_in_two_batches) {
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
    CHECK_EQ(sizes, (std::vector<std::int32_t>{2, 1, 3, 1, 1}));
}

TEST(runs_mixtures_hear_the_base_in_a_hold) {
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
            CHECK(std::isfinite(step.defer_logit));
            const bool above = Policy::defers(step.defer_logit, step.threshold);
            if (step.expert != kBase && !above) ++n_below;
        }
        CHECK(n_below > 0);  // the assistant's all the same
        CHECK_EQ(written.sequence.stats.base_steps, written.steps.size());
    }
}
