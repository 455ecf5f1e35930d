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
    return Policy(PolicyOptions{eta, schedule, k}).threshold_at(n);
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
