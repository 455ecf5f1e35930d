// The loop: what it writes, and which decodes it makes for that.
#include "colm/loop.h"

#include <optional>

#include "loop_models.h"

using colm::kBase;
using colm::Strategy;
using colm::Token;
using Text = FakeModel::Text;

// The oracle: 1 to 5 texts at once with look-ahead, in slots enough or too few, some coming in the middle of
// others and some cancelled there.
TEST_CASE("loop: writes what each text is alone") {
    reference::Random random(11);
    Seen seen;
    for (std::uint32_t round = 0; round < reference::rounds(400); ++round) {
        Models models = nearly_alike(round, random.between(0.0, 1.0));
        models.choices = {kVocab - 1, {3}};
        World w(models, random_limits(random, 5, 12));
        const auto check = [](const Job& job, const Written& got, const Written& alone) {
            check_text(got, alone);
            if (job.lookahead == 0 && got.error.empty()) {
                REQUIRE_EQ(got.sequence.stats.of(0).calls, alone.sequence.stats.of(0).calls);
                REQUIRE_EQ(got.sequence.stats.of(1).calls, alone.sequence.stats.of(1).calls);
            }
            for (const auto& [step, text] : got.steps) {
                REQUIRE(step.token != 3);
                REQUIRE(step.token != job.head->defer_token());
                REQUIRE(step.token < static_cast<Token>(kVocab) - 1);
            }
        };
        check_round(w, models, random_jobs(random, 1 + random.below(5)), random, 0.3, seen, check);
    }
    seen.require_all();
    REQUIRE(seen.experts[kBase] > reference::rounds(1000));
    REQUIRE(seen.experts[1] > reference::rounds(1000));
}

// One text is decoded as it was by an engine of its own.
TEST_CASE("loop: one text reads no token twice") {
    Models models = counting_models();
    Job job;
    job.prompt = {10, 11};
    job.max_tokens = 4;
    job.head = defer_at({3, 5});
    World w(models, one_slot());
    w.add(std::vector<Job>{job});
    w.run();
    REQUIRE_EQ(w.written[0].sequence.tokens, (Text{10, 11, 12, 14, 15, 17}));
    REQUIRE_EQ(batches(*w.base), (Log{"0@0: 10 11*", "0@2: 12*", "0@3: 14*", "0@4: 15*"}));
    REQUIRE_EQ(batches(*w.assistant), (Log{"0@0: 10 11 12*", "0@3: 14 15*"}));
    REQUIRE_EQ(w.written[0].sequence.stats.of(0).tokens_read, 5);
    REQUIRE_EQ(w.written[0].sequence.stats.of(1).tokens_read, 5);
    REQUIRE_EQ(w.written[0].sequence.calls.size(), 6);
}

TEST_CASE("loop: reads the last token of a prompt alone where a head looks at its hidden state") {
    Job job;
    job.prompt = {10, 11, 12};
    job.head = learned_head();
    job.max_tokens = 1;
    World w(counting_models(), one_slot());
    w.add(std::vector<Job>{job});
    w.run();
    REQUIRE_EQ(batches(*w.base), (Log{"0@0: 10 11", "0@2: 12* hidden"}));
}

TEST_CASE("loop: texts share decodes") {
    World w(counting_models());
    std::vector<Job> jobs(3);
    jobs[0].prompt = {10, 11};
    jobs[1].prompt = {12};
    jobs[2].prompt = {13, 14, 15};
    for (Job& job : jobs) job.max_tokens = 3;
    w.add(jobs);
    w.run();
    REQUIRE_EQ(w.ended, (std::vector<std::size_t>{0, 1, 2}));
    REQUIRE_EQ(batches(*w.base), (Log{"0@0: 10 11* | 1@0: 12* | 2@0: 13 14 15*",
                                      "0@2: 12* | 1@1: 13* | 2@3: 16*", "0@3: 13* | 1@2: 14* | 2@4: 17*"}));
    REQUIRE_EQ(w.loop->n_steps(), 3);
    REQUIRE(w.assistant->batches.empty());
}

TEST_CASE("loop: experts read along") {
    World w(counting_models());
    std::vector<Job> jobs(3);
    jobs[0].prompt = {10, 11};
    jobs[0].head = defer_at({2, 5});  // its first token, and its fourth
    jobs[1].prompt = {1};
    jobs[1].head = defer_at({2});  // its second
    jobs[2].prompt = {20};
    for (Job& job : jobs) job.max_tokens = 4;
    w.add(jobs);
    w.run();
    REQUIRE_EQ(w.written[0].sequence.tokens, (Text{10, 11, 13, 14, 15, 17}));
    REQUIRE_EQ(w.written[1].sequence.tokens, (Text{1, 2, 4, 5, 6}));
    // Whom it was never asked about it does not read; where none is deferred it reads nothing.
    REQUIRE_EQ(batches(*w.assistant), (Log{"0@0: 10 11*", "0@2: 13 | 1@0: 1 2*", "0@3: 14 15* | 1@2: 4 5"}));
    REQUIRE_EQ(w.written[0].sequence.stats.of(1).calls, 2);
    REQUIRE_EQ(w.written[1].sequence.stats.of(1).tokens_read, 4);
    REQUIRE_EQ(w.written[2].sequence.stats.of(1).tokens_read, 0);
}

TEST_CASE("loop: asks only the experts that matter") {
    World w(counting_models());
    std::vector<Job> jobs(3);
    jobs[0].head = named("always");
    jobs[1].prompt = {12};
    jobs[2].prompt = {14};
    jobs[2].head = named("always");
    jobs[2].strategy.strategy = Strategy::compose;  // the base has its part in this one
    for (Job& job : jobs) job.max_tokens = 1;
    w.add(jobs);
    w.run();
    REQUIRE_EQ(batches(*w.base), (Log{"1@0: 12* | 2@0: 14*"}));
    REQUIRE_EQ(batches(*w.assistant), (Log{"0@0: 10* | 2@0: 14*"}));
}

TEST_CASE("loop: never chooses what stands for no token") {
    // Both models want a token that is blocked, then one beyond those shared, then the deferral token.
    Models models;
    models.base = models.assistant = [](const Text&) {
        std::vector<float> values(kVocab, 0.0f);
        values[4] = 30.0f;
        values[kVocab - 1] = 20.0f;
        values[6] = 10.0f;
        values[9] = 5.0f;
        return values;
    };
    models.choices = {kVocab - 1, {4}};
    for (const auto strategy : {Strategy::defer, Strategy::compose, Strategy::contrastive})
        for (const double threshold : {0.0, 1.0}) {
            std::vector<Job> jobs(2);
            for (Job& job : jobs) {
                job.max_tokens = 2;
                job.policy.threshold = threshold;
                job.strategy = {strategy, 0.5, 0.1};
                job.head = std::make_shared<colm::TokenHead>(6);
            }
            jobs[1].head = named("confidence");  // of this text the token is none but a token
            World w(models);
            w.add(jobs);
            w.run();
            REQUIRE_EQ(w.written[0].sequence.tokens, (Text{10, 9, 9}));
            REQUIRE_EQ(w.written[1].sequence.tokens, (Text{10, 6, 6}));
        }
}
