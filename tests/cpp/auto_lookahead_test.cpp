// What look-ahead "auto" costs and saves, on machines whose clock is made up: every batch takes the seconds
// of a line over its size, so that nothing here depends on the machine that runs the test.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "check.h"
#include "colm/random.h"
#include "world.h"

namespace {

using Text = FakeModel::Text;

constexpr std::size_t kTokens = 96;

// Seconds of a batch: of the call, and of each token.
struct Cost {
    double call;
    double token;
    double of(std::size_t n) const { return call + token * static_cast<double>(n); }
};

struct Machine {
    const char* name;
    Cost base;
    Cost assistant;
};

const std::vector<Machine> kMachines = {
    {"0.5B and 7B on two cores", {0.007, 0.009}, {0.055, 0.037}},
    {"0.5B and 1.5B on two cores", {0.007, 0.009}, {0.012, 0.013}},
    {"reading as slow as writing", {0.002, 0.014}, {0.001, 0.060}},
    {"a GPU", {0.005, 0.0001}, {0.020, 0.0001}},
    {"equal models", {0.020, 0.0005}, {0.020, 0.0005}},
};

// In [0, 1), by seed and text.
double share_of(std::uint64_t seed, const Text& text) {
    std::uint64_t hash = colm::splitmix64(seed);
    for (const colm::Token token : text) hash = colm::splitmix64(hash ^ static_cast<std::uint64_t>(token));
    return colm::uniform(hash);
}

// A likeliest token whose log-odds are `log_odds`, or up to that.
std::vector<float> peaked(std::uint64_t seed, const Text& text, double log_odds, bool spread) {
    std::vector<float> values(kVocab, 0.0f);
    values[kEnd] = -30.0f;
    const auto top = 1 + static_cast<std::size_t>(share_of(seed, text) * (kVocab - 1));
    const double odds = spread ? log_odds * share_of(seed + 1, text) : log_odds;
    values[std::min(top, kVocab - 1)] = static_cast<float>(odds + std::log(kVocab - 2.0));
    return values;
}

// The assistant writes the base's token with this probability; where it is negative, with the base's own.
Models models_of(double agreement, double log_odds, bool spread) {
    Models models;
    models.base = [=](const Text& text) { return peaked(1, text, log_odds, spread); };
    models.assistant = [=](const Text& text) {
        const double odds = spread ? log_odds * share_of(2, text) : log_odds;
        const double share = agreement < 0 ? 1.0 / (1.0 + std::exp(-odds)) : agreement;
        return share_of(5, text) < share ? peaked(1, text, log_odds, spread) : peaked(7, text, 4.0, false);
    };
    return models;
}

struct Outcome {
    double seconds = 0.0;
    std::size_t n_calls = 0;
    std::vector<Text> texts;
};

// Writes `n_texts` texts, `n_slots` at a time, from an engine that has measured nothing.
Outcome write(const Machine& machine, const Models& models, double rate, int lookahead, std::size_t n_slots,
              std::size_t n_texts) {
    Limits limits;
    limits.n_slots = n_slots;
    limits.n_ctx = kTokens + 16;
    Outcome outcome;
    World w(models, limits, [&outcome] { return outcome.seconds; });
    w.base->on_eval = [&](std::size_t, colm::Interrupt&) {
        outcome.seconds += machine.base.of(w.base->sizes.back());
    };
    w.assistant->on_eval = [&](std::size_t, colm::Interrupt&) {
        outcome.seconds += machine.assistant.of(w.assistant->sizes.back());
    };
    std::vector<Job> jobs(n_texts);
    for (std::size_t i = 0; i < n_texts; ++i) {
        jobs[i].prompt = {static_cast<colm::Token>(10 + i), 3, 4, 5};
        jobs[i].head = named("random");
        jobs[i].seed = static_cast<std::uint32_t>(i);
        jobs[i].policy.threshold = 1.0 - rate;
        jobs[i].max_tokens = static_cast<int>(kTokens);
        jobs[i].lookahead = lookahead;
    }
    for (std::size_t i = 0; i < n_texts; i += n_slots) {
        w.add(jobs, i, i + n_slots);
        w.run();
    }
    outcome.n_calls = w.assistant->sizes.size();
    for (const auto& [id, written] : w.written) outcome.texts.push_back(written.sequence.tokens);
    return outcome;
}

// Time with "auto" over time without look-ahead.
double ratio(const Machine& machine, const Models& models, double rate, std::size_t n_slots,
             std::size_t n_texts) {
    const Outcome off = write(machine, models, rate, 0, n_slots, n_texts);
    const Outcome automatic = write(machine, models, rate, colm::kAutoLookahead, n_slots, n_texts);
    REQUIRE(off.texts == automatic.texts);
    return automatic.seconds / off.seconds;
}

}  // namespace

TEST_CASE("auto_lookahead: is never much slower than none") {
    std::string worse;
    std::size_t n = 0;
    for (const Machine& machine : kMachines)
        for (const double agreement : {-1.0, 0.0, 0.6, 0.9})
            for (const double rate : {0.03, 0.09, 0.5})
                for (const bool spread : {false, true}) {
                    // By default every seventh: each machine, agreement, rate and kind is still among them.
                    if (n++ % 7 != 0 && !reference::kAllRounds) continue;
                    // Each number of slots with either kind of log-odds, at one rate or another.
                    const std::size_t n_slots = spread == (rate == 0.09) ? 4 : 1;
                    const Models models = models_of(agreement, 6.0, spread);
                    const double found = ratio(machine, models, rate, n_slots, 4);
                    if (found <= 1.03) continue;
                    worse += std::string(machine.name) + ", agreement " + std::to_string(agreement) +
                             ", rate " + std::to_string(rate) + ", slots " + std::to_string(n_slots) + ": " +
                             std::to_string(found) + "; ";
                }
    REQUIRE_EQ(worse, "");
}

// A base of 0.5B that is sure of itself, and an assistant of 7B that hardly ever agrees: what `random` at 9%
// does with an assistant that was made up.
TEST_CASE("auto_lookahead: stops trusting a base that is wrong") {
    const Models models = models_of(0.0, 6.0, true);
    const Outcome off = write(kMachines[0], models, 0.09, 0, 1, 8);
    const Outcome automatic = write(kMachines[0], models, 0.09, colm::kAutoLookahead, 1, 8);
    REQUIRE(off.texts == automatic.texts);
    REQUIRE(automatic.seconds <= 1.01 * off.seconds);
}

TEST_CASE("auto_lookahead: saves time where the models agree") {
    const Models models = models_of(0.9, 6.0, false);
    REQUIRE(ratio(kMachines[3], models, 0.5, 1, 8) < 0.7);
    REQUIRE(ratio(kMachines[3], models, 0.5, 4, 8) < 0.8);
    REQUIRE(ratio(kMachines[0], models_of(1.0, 6.0, false), 0.5, 1, 8) < 0.85);
    REQUIRE(ratio(kMachines[3], models_of(1.0, 6.0, false), 1.0, 1, 8) < 0.4);
}

TEST_CASE("auto_lookahead: may lose a little time and what it has won") {
    colm::Estimates e;
    for (int i = 0; i < 100; ++i) {
        e.reading(colm::kBase, 1, 0.010);
        e.reading(1, 1 + static_cast<std::size_t>(i % 4), 0.100 + 0.001 * (1 + i % 4));
        e.position(true);
    }
    const double lent = e.account();
    REQUIRE_EQ(lent, about(0.015 * (100 * 0.010 + 100 * 0.1025), 1e-3));
    REQUIRE(e.worth_going_on({0.9}, 1, 1));
    e.lost(1, 1 + static_cast<std::size_t>(lent / 0.011));
    REQUIRE(e.account() < 0.0);
    REQUIRE(!e.worth_going_on({0.99}, 1, 1));
    const double before = e.account();
    e.shared_call(1, 1);
    REQUIRE_EQ(e.account() - before, about(e.call_seconds(1), 1e-9));
    REQUIRE(e.worth_going_on({0.9}, 1, 1));
    // More is at risk than the account holds.
    REQUIRE(!e.worth_going_on({0.9}, 1, 1, 40));
}

TEST_CASE("auto_lookahead: learns how far to trust the base") {
    colm::Estimates e;
    REQUIRE_EQ(e.acceptance_rate(3.0), about(reference::sigmoid(3.0), 1e-9));
    for (int i = 0; i < 5; ++i) e.verified(3.0, false);
    // Tokens of other log-odds, too, of which none was verified.
    REQUIRE(e.acceptance_rate(0.5) < 0.25);
    for (int i = 0; i < 400; ++i) e.verified(3.0, true);
    REQUIRE_EQ(e.acceptance_rate(0.5), about(reference::sigmoid(0.5), 0.02));
}
