#include "colm/policy.h"

#include <cmath>
#include <vector>

#include "check.h"
#include "colm/error.h"
#include "reference.h"

using colm::OptionError;
using colm::Policy;
using colm::PolicyOptions;
using colm::Schedule;
using reference::kInfD;
using reference::kNanD;

namespace {

const std::vector<Schedule> kMoving = {Schedule::linear, Schedule::cosine, Schedule::exponential};

double threshold(Schedule schedule, double eta, int k, std::size_t n) {
    return Policy(PolicyOptions{eta, schedule, k}).threshold_at(n, 0);
}

}  // namespace

TEST(policy_defers_above_the_logit_of_the_threshold) {
    for (const double eta : {0.001, 0.1, 0.5, 0.9, 0.999}) {
        const double edge = std::log(eta / (1.0 - eta));
        CHECK(Policy::defers(edge + 1e-9, eta));
        CHECK(!Policy::defers(edge - 1e-9, eta));
        CHECK(Policy::defers(kInfD, eta));
        CHECK(!Policy::defers(-kInfD, eta));
    }
    CHECK(!Policy::defers(0.0, 0.5));  // at the threshold itself: stay
}

TEST(policy_ends_hold_for_infinities) {
    for (const double z : {-kInfD, -1e300, 0.0, 1e300, kInfD}) {
        CHECK(Policy::defers(z, 0.0));
        CHECK(!Policy::defers(z, 1.0));
    }
}

TEST(policy_is_exact_near_the_ends) {
    // The logit of the smallest positive threshold is about -744.
    const double tiny = 5e-324;
    CHECK(Policy::defers(-744.0, tiny));
    CHECK(!Policy::defers(-745.0, tiny));
    const double almost_one = 1.0 - 0x1p-53;
    CHECK(Policy::defers(36.8, almost_one));
    CHECK(!Policy::defers(36.7, almost_one));
}

TEST(policy_refuses_nan) {
    for (const double eta : {0.0, 0.5, 1.0})
        CHECK_THROWS(colm::GenerationError, Policy::defers(kNanD, eta), "deferral logit is NaN");
}

TEST(policy_constant_schedule) {
    for (const std::size_t n : {0, 5, 10, 1000}) CHECK_EQ(threshold(Schedule::constant, 0.3, 10, n), 0.3);
}

TEST(policy_moving_schedules_go_from_one_to_the_threshold) {
    for (const Schedule schedule : kMoving) {
        for (const double eta : {0.0, 0.2, 0.7, 1.0}) {
            CHECK_EQ(threshold(schedule, eta, 10, 0), 1.0);
            CHECK_EQ(threshold(schedule, eta, 10, 10), eta);
            CHECK_EQ(threshold(schedule, eta, 10, 11), eta);
            CHECK_EQ(threshold(schedule, eta, 10, 1000000), eta);
            double last = 1.0;
            for (std::size_t n = 1; n < 10; ++n) {
                const double now = threshold(schedule, eta, 10, n);
                CHECK(eta == 1.0 ? now == 1.0 : now < last);
                CHECK(now >= eta);
                last = now;
            }
        }
    }
}

TEST(policy_schedules_between_the_ends) {
    CHECK_NEAR(threshold(Schedule::linear, 0.2, 10, 5), 0.6, 1e-15);
    CHECK_NEAR(threshold(Schedule::linear, 0.2, 10, 1), 0.92, 1e-15);
    CHECK_NEAR(threshold(Schedule::cosine, 0.2, 10, 5), 0.6, 1e-15);
    CHECK_NEAR(threshold(Schedule::cosine, 0.2, 12, 4), 0.2 + 0.8 * 0.75, 1e-15);  // cos(60 degrees)
    CHECK_NEAR(threshold(Schedule::exponential, 0.25, 10, 5), 0.5, 1e-15);
    CHECK_NEAR(threshold(Schedule::exponential, 0.008, 9, 3), 0.2, 1e-15);
    CHECK_NEAR(threshold(Schedule::exponential, 0.0, 8, 4), 0.01, 1e-15);  // the floor of 1e-4
    CHECK_NEAR(threshold(Schedule::exponential, 1e-9, 8, 4), 0.01, 1e-15);
}

TEST(policy_schedule_of_no_tokens) {
    for (const Schedule schedule : kMoving) CHECK_EQ(threshold(schedule, 0.4, 0, 0), 0.4);
}

TEST(policy_schedule_of_one_token) {
    for (const Schedule schedule : kMoving) {
        CHECK_EQ(threshold(schedule, 0.4, 1, 0), 1.0);
        CHECK_EQ(threshold(schedule, 0.4, 1, 1), 0.4);
    }
}

TEST(policy_checks_its_options) {
    for (const double eta : {-0.1, 1.1, kNanD, kInfD, -kInfD})
        CHECK_THROWS(OptionError, Policy(PolicyOptions{eta, Schedule::constant, 0}), "between 0 and 1");
    CHECK_THROWS(OptionError, Policy(PolicyOptions{0.5, Schedule::linear, -1}), "schedule_tokens is -1");
}

namespace {

PolicyOptions aiming_at(double rate, double eta = 0.5) {
    PolicyOptions options;
    options.threshold = eta;
    options.target_rate = rate;
    return options;
}

// The rate after n tokens whose z have about a normal distribution of this mean and deviation.
double steered_rate(double target, double eta, double mean, double deviation, std::size_t n) {
    Policy policy(aiming_at(target, eta));
    reference::Random random(7);
    const auto normal = [&] {  // nearly, and the same with every standard library
        double sum = -6.0;
        for (int i = 0; i < 12; ++i) sum += random.between(0.0, 1.0);
        return mean + deviation * sum;
    };
    std::size_t n_deferred = 0;
    for (std::size_t t = 0; t < n; ++t) {
        const double z = normal();
        const bool defers = Policy::defers(z, policy.threshold_at(t, n_deferred));
        if (defers) ++n_deferred;
        policy.observe(z, defers);
    }
    return static_cast<double>(n_deferred) / static_cast<double>(n);
}

}  // namespace

TEST(policy_steers_to_the_target_rate) {
    // Within 3 points after 200 tokens from any start within 2.5 deviations of where it has to be.
    struct Quantile {
        double rate;
        double deviations;  // above the mean, beyond which that share of a normal distribution lies
    };
    int n_cases = 0;
    for (const Quantile q : {Quantile{0.05, 1.645}, {0.1, 1.282}, {0.2, 0.842}, {0.4, 0.253}, {0.9, -1.282}})
        for (const double eta : {0.02, 0.5, 0.9})
            for (const double mean : {-3.0, 0.0, 1.0})
                for (const double deviation : {0.5, 2.0, 6.0}) {
                    const double start = std::log(eta / (1.0 - eta));
                    if (std::abs(start - mean - q.deviations * deviation) > 2.5 * deviation) continue;
                    CHECK_NEAR(steered_rate(q.rate, eta, mean, deviation, 200), q.rate, 0.03);
                    ++n_cases;
                }
    CHECK(n_cases > 60);
}

TEST(policy_steering_corrects_a_start_that_is_far_off) {
    CHECK_NEAR(steered_rate(0.2, 0.999, -8.0, 1.0, 1000), 0.2, 0.04);
}

TEST(policy_steering_follows_the_formula) {
    Policy policy(aiming_at(0.25, 0.5));
    // Before it knows how z varies: logit = 0.75 (deferred - 0.25 generated).
    CHECK_NEAR(policy.threshold_at(4, 3), 1.0 / (1.0 + std::exp(-1.5)), 1e-12);
    for (int i = 0; i < 10; ++i) policy.observe(i % 2 == 0 ? 6.0 : -6.0, false);
    policy.observe(kInfD, true);  // tells nothing
    policy.observe(-kInfD, false);
    const double deviation = std::sqrt(10.0 * 36.0 / 9.0);
    CHECK_NEAR(policy.threshold_at(8, 3), 1.0 / (1.0 + std::exp(-0.75 * deviation)), 1e-12);
}

TEST(policy_target_rates_at_the_ends_need_no_steering) {
    CHECK_EQ(Policy(aiming_at(0.0)).threshold_at(10, 5), 1.0);
    CHECK_EQ(Policy(aiming_at(1.0)).threshold_at(10, 5), 0.0);
    // A start at either end stays within what a double can hold.
    for (const double eta : {0.0, 1.0}) {
        const double moved = Policy(aiming_at(0.5, eta)).threshold_at(0, 0);
        CHECK(moved > 0.0 && moved < 1.0);
    }
}

TEST(policy_refuses_bad_target_rates) {
    for (const double rate : {-0.01, 1.01, kNanD})
        CHECK_THROWS(OptionError, Policy(aiming_at(rate)), "target_rate is");
    PolicyOptions both = aiming_at(0.5);
    both.schedule = Schedule::linear;
    CHECK_THROWS(OptionError, Policy(both), "leave one of them out");
}
