// The loop with look-ahead: drafts, what becomes of them, and when they pay.
#include "loop_models.h"

using colm::kBase;
using colm::Token;
using Text = FakeModel::Text;

TEST_CASE("loop: one call verifies the drafts of all texts") {
    // Everything is deferred, and every draft token is right.
    Models models = counting_models();
    models.assistant = models.base;
    std::vector<Job> jobs(4);
    for (std::size_t i = 0; i < jobs.size(); ++i) {
        jobs[i].prompt = {static_cast<Token>(2 + i)};
        jobs[i].head = named("confidence");
        jobs[i].policy.threshold = 0.0;
        jobs[i].max_tokens = 12;
        jobs[i].lookahead = 4;
        jobs[i].banned = {kEnd};
    }
    Limits limits;
    limits.n_slots = 4;
    World w(models, limits);
    w.add(jobs);
    w.run();
    REQUIRE_EQ(w.assistant->batches.size(), 3);  // for 48 deferred tokens
    REQUIRE_EQ(w.base->batches.size(), 12);
    for (std::size_t i = 0; i < 4; ++i) {
        REQUIRE_EQ(w.written[i].sequence.stats.n_accepted, 12);
        REQUIRE_EQ(w.written[i].sequence.stats.of(1).calls, 3);
    }
    REQUIRE_EQ(w.assistant->log[0],
               "0@0: 2* 3* 4* 5* | 1@0: 3* 4* 5* 6* | 2@0: 4* 5* 6* 7* | 3@0: 5* 6* 7* 8*");
}

TEST_CASE("loop: look ahead halves the calls of four texts") {
    const Models models = nearly_alike(5, 0.1);
    std::size_t n_calls[2] = {};
    for (const int lookahead : {0, 8}) {
        std::vector<Job> jobs(4);
        for (std::size_t i = 0; i < jobs.size(); ++i) {
            jobs[i].prompt = {static_cast<Token>(10 + i), 3};
            jobs[i].head = named("random");
            jobs[i].policy.threshold = 0.7;
            jobs[i].seed = static_cast<std::uint32_t>(i);
            jobs[i].max_tokens = 200;
            jobs[i].banned = {kEnd};
            jobs[i].lookahead = lookahead;
        }
        Limits limits;
        limits.n_slots = 4;
        limits.n_ctx = 250;
        World w(models, limits);
        w.add(jobs);
        w.run();
        for (std::size_t i = 0; i < jobs.size(); ++i) {
            check_text(w.written[i], write_alone(models, jobs[i], limits.n_ctx));
            n_calls[lookahead > 0] += w.written[i].sequence.stats.of(1).calls;
        }
    }
    REQUIRE(2 * n_calls[1] <= n_calls[0]);
}

TEST_CASE("loop: replaces a rejected draft token and goes back to it") {
    Models models = counting_models();
    models.assistant = [](const Text& text) {
        std::vector<float> logits(kVocab, 0.0f);
        logits[static_cast<std::size_t>(text.back() + (text.back() == 12 ? 5 : 1)) % kVocab] = 9.0f;
        return logits;
    };
    Job job;
    job.head = named("confidence");
    job.policy.threshold = 0.0;
    job.lookahead = 4;
    job.max_tokens = 5;
    World w(models, one_slot());
    w.add(std::vector<Job>{job});
    w.run();
    REQUIRE_EQ(w.written[0].sequence.tokens, (Text{10, 11, 12, 17, 18, 19}));
    REQUIRE_EQ(w.assistant->log, (Log{"0@0: 10* 11* 12* 13*", "rewind 0: 3 -> 3", "0@3: 17* 18*"}));
    REQUIRE_EQ(w.base->log, (Log{"0@0: 10*", "0@1: 11*", "0@2: 12*", "0@3: 13*", "rewind 0: 3 -> 3",
                                 "0@3: 17*", "0@4: 18*"}));
    REQUIRE_EQ(w.written[0].sequence.stats.n_drafted, 5);
    REQUIRE_EQ(w.written[0].sequence.stats.n_accepted, 4);
}

TEST_CASE("loop: a head that needs no base lets the expert write one more") {
    Models models = counting_models();
    models.assistant = models.base;
    Job job;
    job.head = named("always");
    job.lookahead = 4;
    job.max_tokens = 10;
    World w(models, one_slot());
    w.add(std::vector<Job>{job});
    w.run();
    const colm::Stats& stats = w.written[0].sequence.stats;
    REQUIRE_EQ(stats.of(1).calls, 2);  // four draft tokens and a token of its own, twice
    REQUIRE_EQ(stats.n_drafted, 8);
    REQUIRE_EQ(stats.of(0).calls, 8);
}

TEST_CASE("loop: look ahead is off for models that cannot go back") {
    Limits limits = one_slot();
    limits.can_rewind = false;
    Job job;
    job.policy.threshold = 0.0;
    job.head = named("confidence");
    job.lookahead = 8;
    World w(Models(), limits);
    w.add(std::vector<Job>{job});
    w.run();
    REQUIRE_EQ(w.written[0].sequence.stats.n_drafted, 0);
    REQUIRE(!w.written[0].sequence.stats.lookahead);
}

TEST_CASE("loop: auto drafts where it pays alone") {
    const auto estimates = [](double base, double call, double token, double rate) {
        colm::Estimates e;
        for (std::size_t i = 0; i < 50; ++i) {
            e.reading(kBase, 1, base);
            e.reading(1, 1 + i % 8, call + static_cast<double>(1 + i % 8) * token);
            e.position(static_cast<double>(i % 100) < rate * 100 || rate == 1.0);
        }
        return e;
    };
    const colm::Estimates gpu = estimates(0.005, 0.020, 0.0001, 1.0);
    REQUIRE_EQ(gpu.call_seconds(1), about(0.020, 1e-3));
    REQUIRE_EQ(gpu.token_seconds(1), about(0.0001, 2e-4));
    REQUIRE(gpu.worth_going_on({0.9}, 1, 1));
    REQUIRE(gpu.worth_going_on({0.5}, 1, 1));
    REQUIRE(!gpu.worth_going_on({0.05}, 1, 1));
    // Beside others that are right already, a call is saved only if no text needs it.
    REQUIRE(gpu.worth_going_on({0.9, 0.9, 0.9, 0.9}, 1, 4));
    REQUIRE(!gpu.worth_going_on({0.1, 0.1, 0.1, 0.1, 0.1, 0.1}, 1, 1));
    // Reading is no faster than writing: nothing is saved by asking once for two.
    REQUIRE(!estimates(0.030, 0.0, 0.070, 1.0).worth_going_on({0.9}, 1, 1));
    // Never before both were measured.
    colm::Estimates none;
    REQUIRE(!none.worth_going_on({1.0}, 1, 1));
    none.reading(kBase, 1, 0.01);
    REQUIRE(!none.worth_going_on({1.0}, 1, 1));
    none.reading(1, 1, 0.05);
    // Nor before time was spent, of which a little may be lost.
    REQUIRE(!none.worth_going_on({0.95}, 1, 1));
    for (int i = 0; i < 20; ++i) none.reading(1, 1, 0.05);
    REQUIRE(none.worth_going_on({0.95}, 1, 1));
}

TEST_CASE("loop: learns the acceptance rate") {
    colm::Estimates e;
    REQUIRE_EQ(e.acceptance_rate(2.0), about(reference::sigmoid(2.0), 1e-9));
    for (int i = 0; i < 400; ++i) e.verified(2.0, i % 4 == 0);
    REQUIRE_EQ(e.acceptance_rate(2.0), about(0.25, 0.03));
    // The base is trusted less elsewhere, too.
    REQUIRE(e.acceptance_rate(-1.0) < 0.5 * reference::sigmoid(-1.0));
    // One slow batch does not change its mind.
    for (int i = 0; i < 20; ++i) e.reading(1, 1, 0.05);
    const double before = e.call_seconds(1) + e.token_seconds(1);
    e.reading(1, 1, 5.0);
    REQUIRE(e.call_seconds(1) + e.token_seconds(1) < 1.2 * before);
}
