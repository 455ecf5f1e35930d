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

TEST_CASE("policy: defers above the logit of the threshold") {
    for (const double eta : {0.001, 0.1, 0.5, 0.9, 0.999}) {
        const double edge = std::log(eta / (1.0 - eta));
        REQUIRE(Policy::defers(edge + 1e-9, eta));
        REQUIRE(!Policy::defers(edge - 1e-9, eta));
        REQUIRE(Policy::defers(kInfD, eta));
        REQUIRE(!Policy::defers(-kInfD, eta));
    }
    REQUIRE(!Policy::defers(0.0, 0.5));  // at the threshold itself: stay
}

TEST_CASE("policy: ends hold for infinities") {
    for (const double z : {-kInfD, -1e300, 0.0, 1e300, kInfD}) {
        REQUIRE(Policy::defers(z, 0.0));
        REQUIRE(!Policy::defers(z, 1.0));
    }
}

TEST_CASE("policy: is exact near the ends") {
    // The logit of the smallest positive threshold is about -744.
    const double tiny = 5e-324;
    REQUIRE(Policy::defers(-744.0, tiny));
    REQUIRE(!Policy::defers(-745.0, tiny));
    const double almost_one = 1.0 - 0x1p-53;
    REQUIRE(Policy::defers(36.8, almost_one));
    REQUIRE(!Policy::defers(36.7, almost_one));
}

TEST_CASE("policy: refuses nan") {
    for (const double eta : {0.0, 0.5, 1.0})
        REQUIRE_THROWS_WITH_AS(Policy::defers(kNanD, eta), doctest::Contains("defer logit is NaN"),
                               colm::GenerationError);
}

TEST_CASE("policy: constant schedule") {
    for (const std::size_t n : {0, 5, 10, 1000}) REQUIRE_EQ(threshold(Schedule::constant, 0.3, 10, n), 0.3);
}

TEST_CASE("policy: moving schedules go from one to the threshold") {
    for (const Schedule schedule : kMoving) {
        for (const double eta : {0.0, 0.2, 0.7, 1.0}) {
            REQUIRE_EQ(threshold(schedule, eta, 10, 0), 1.0);
            REQUIRE_EQ(threshold(schedule, eta, 10, 10), eta);
            REQUIRE_EQ(threshold(schedule, eta, 10, 11), eta);
            REQUIRE_EQ(threshold(schedule, eta, 10, 1000000), eta);
            double last = 1.0;
            for (std::size_t n = 1; n < 10; ++n) {
                const double now = threshold(schedule, eta, 10, n);
                REQUIRE((eta == 1.0 ? now == 1.0 : now < last));
                REQUIRE(now >= eta);
                last = now;
            }
        }
    }
}

TEST_CASE("policy: schedules between the ends") {
    REQUIRE_EQ(threshold(Schedule::linear, 0.2, 10, 5), about(0.6, 1e-15));
    REQUIRE_EQ(threshold(Schedule::linear, 0.2, 10, 1), about(0.92, 1e-15));
    REQUIRE_EQ(threshold(Schedule::cosine, 0.2, 10, 5), about(0.6, 1e-15));
    REQUIRE_EQ(threshold(Schedule::cosine, 0.2, 12, 4), about(0.2 + 0.8 * 0.75, 1e-15));  // cos(60 degrees)
    REQUIRE_EQ(threshold(Schedule::exponential, 0.25, 10, 5), about(0.5, 1e-15));
    REQUIRE_EQ(threshold(Schedule::exponential, 0.008, 9, 3), about(0.2, 1e-15));
    REQUIRE_EQ(threshold(Schedule::exponential, 0.0, 8, 4), about(0.01, 1e-15));  // the floor of 1e-4
    REQUIRE_EQ(threshold(Schedule::exponential, 1e-9, 8, 4), about(0.01, 1e-15));
}

TEST_CASE("policy: schedule of no tokens") {
    for (const Schedule schedule : kMoving) REQUIRE_EQ(threshold(schedule, 0.4, 0, 0), 0.4);
}

TEST_CASE("policy: schedule of one token") {
    for (const Schedule schedule : kMoving) {
        REQUIRE_EQ(threshold(schedule, 0.4, 1, 0), 1.0);
        REQUIRE_EQ(threshold(schedule, 0.4, 1, 1), 0.4);
    }
}

TEST_CASE("policy: checks its options") {
    for (const double eta : {-0.1, 1.1, kNanD, kInfD, -kInfD})
        REQUIRE_THROWS_WITH_AS(Policy(PolicyOptions{eta, Schedule::constant, 0}),
                               doctest::Contains("between 0 and 1"), OptionError);
    REQUIRE_THROWS_WITH_AS(Policy(PolicyOptions{0.5, Schedule::linear, -1}),
                           doctest::Contains("schedule_tokens is -1"), OptionError);
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
        policy.observe(z, defers ? 1 : 0);
    }
    return static_cast<double>(n_deferred) / static_cast<double>(n);
}

}  // namespace

TEST_CASE("policy: steers to the target rate") {
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
                    REQUIRE_EQ(steered_rate(q.rate, eta, mean, deviation, 200), about(q.rate, 0.03));
                    ++n_cases;
                }
    REQUIRE(n_cases > 60);
}

TEST_CASE("policy: steering corrects a start that is far off") {
    REQUIRE_EQ(steered_rate(0.2, 0.999, -8.0, 1.0, 1000), about(0.2, 0.04));
}

TEST_CASE("policy: steering follows the formula") {
    Policy policy(aiming_at(0.25, 0.5));
    // Before it knows how z varies: logit = 0.75 (deferred - 0.25 generated).
    REQUIRE_EQ(policy.threshold_at(4, 3), about(1.0 / (1.0 + std::exp(-1.5)), 1e-12));
    for (int i = 0; i < 10; ++i) policy.observe(i % 2 == 0 ? 6.0 : -6.0, 0);
    policy.observe(kInfD, 1);  // tells nothing
    policy.observe(-kInfD, 0);
    const double deviation = std::sqrt(10.0 * 36.0 / 9.0);
    REQUIRE_EQ(policy.threshold_at(8, 3), about(1.0 / (1.0 + std::exp(-0.75 * deviation)), 1e-12));
}

TEST_CASE("policy: target rates at the ends need no steering") {
    REQUIRE_EQ(Policy(aiming_at(0.0)).threshold_at(10, 5), 1.0);
    REQUIRE_EQ(Policy(aiming_at(1.0)).threshold_at(10, 5), 0.0);
    // A start at either end stays within what a double can hold.
    for (const double eta : {0.0, 1.0}) {
        const double moved = Policy(aiming_at(0.5, eta)).threshold_at(0, 0);
        REQUIRE(moved > 0.0);
        REQUIRE(moved < 1.0);
    }
}

TEST_CASE("policy: refuses bad target rates") {
    for (const double rate : {-0.01, 1.01, kNanD})
        REQUIRE_THROWS_WITH_AS(Policy(aiming_at(rate)), doctest::Contains("target_rate is"), OptionError);
    PolicyOptions both = aiming_at(0.5);
    both.schedule = Schedule::linear;
    REQUIRE_THROWS_WITH_AS(Policy{both}, doctest::Contains("leave one of them out"), OptionError);
}
