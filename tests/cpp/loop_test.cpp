#include "colm/loop.h"

#include <chrono>
#include <set>
#include <thread>

#include "world.h"

using colm::ExpertId;
using colm::FinishReason;
using colm::HeadInput;
using colm::Interrupt;
using colm::kAutoLookahead;
using colm::kBase;
using colm::Strategy;
using colm::Token;

namespace {

using Text = FakeModel::Text;
using Log = std::vector<std::string>;

// Defers the token at these positions (of the text, prompt included) alone.
HeadPtr defer_at(std::set<std::size_t> positions) {
    return std::make_shared<TestHead>([positions = std::move(positions)](const HeadInput& input) {
        return positions.count(input.position) > 0 ? 1.0 : -1.0;
    });
}

// Wants the token that is `step` further on than the last.
FakeModel::Function counting(Token step) {
    return [step](const Text& text) {
        std::vector<float> logits(kVocab, 0.0f);
        logits[static_cast<std::size_t>(text.back() + step) % kVocab] = 9.0f;
        return logits;
    };
}

// The base counts by one, the assistant by two: tokens tell who wrote them.
Models counting_models() {
    Models models;
    models.base = counting(1);
    models.assistant = counting(2);
    return models;
}

Log batches(const FakeModel& model) {
    Log all;
    for (const std::string& line : model.log)
        if (line.find('@') != std::string::npos) all.push_back(line);
    return all;
}

Limits one_slot() {
    Limits limits;
    limits.n_slots = 1;
    return limits;
}

Models nearly_alike(std::uint32_t seed, double share) {
    Models models;
    models.base = random_function(seed, kVocab);
    models.assistant = nearly(models.base, seed + 7, kVocab, share);
    return models;
}

}  // namespace

// The oracle: 1 to 5 texts at once with look-ahead, in slots enough or too few, some coming in the middle of
// others and some cancelled there.
TEST(loop_writes_what_each_text_is_alone) {
    reference::Random random(11);
    std::map<FinishReason, int> reasons;
    std::map<ExpertId, int> experts;
    std::size_t n_drafted = 0;
    std::size_t n_rejected = 0;
    for (int round = 0; round < 400; ++round) {
        Models models = nearly_alike(static_cast<std::uint32_t>(round), random.between(0.0, 1.0));
        models.choices = {kVocab - 1, {3}};
        Limits limits;
        limits.n_slots = 1 + random.below(5);
        limits.n_outputs = 2 + random.below(15);
        limits.base_batch = limits.n_slots + random.below(12);
        limits.assistant_batch = 2 + random.below(20);
        limits.n_ctx = 12 + random.below(30);
        limits.cache_bytes = random.chance(0.5) ? 400 : 0;
        limits.can_rewind = random.chance(0.8);
        World w(models, limits);
        const std::vector<Job> jobs = random_jobs(random, 1 + random.below(5));
        const std::size_t n_first = 1 + random.below(jobs.size());
        w.add(jobs, 0, n_first);
        for (std::size_t n = random.below(12); n > 0; --n) w.step();
        w.add(jobs, n_first);
        std::optional<std::size_t> cancelled;
        if (random.chance(0.3)) {
            for (std::size_t n = random.below(6); n > 0; --n) w.step();
            cancelled = random.below(jobs.size());
            w.cancel(*cancelled);
        }
        w.run();
        for (std::size_t i = 0; i < jobs.size(); ++i) {
            const Written& got = w.written.at(i);
            const Written alone = write_alone(models, jobs[i], limits.n_ctx);
            ++reasons[got.reason];
            n_drafted += got.sequence.stats.n_drafted;
            n_rejected += got.sequence.stats.n_drafted - got.sequence.stats.n_accepted;
            if (got.reason == FinishReason::cancelled) {
                CHECK_EQ(i, *cancelled);
                const Text& tokens = got.sequence.tokens;
                CHECK(tokens.size() <= alone.sequence.tokens.size());
                CHECK(std::equal(tokens.begin(), tokens.end(), alone.sequence.tokens.begin()));
                continue;
            }
            check_text(got, alone);
            if (jobs[i].lookahead == 0 && got.error.empty()) {
                CHECK_EQ(got.sequence.stats.base_steps, alone.sequence.stats.base_steps);
                CHECK_EQ(got.sequence.stats.assistant_calls, alone.sequence.stats.assistant_calls);
            }
            for (const auto& [step, text] : got.steps) {
                ++experts[step.expert];
                CHECK(step.token != 3 && step.token != jobs[i].head->defer_token());
                CHECK(step.token < static_cast<Token>(kVocab) - 1);
            }
        }
    }
    for (const auto reason : {FinishReason::eos, FinishReason::stop, FinishReason::length,
                              FinishReason::failed, FinishReason::cancelled})
        CHECK(reasons[reason] > 5);
    CHECK(experts[kBase] > 1000 && experts[1] > 1000);
    CHECK(n_drafted > 200);
    CHECK(n_rejected > 50);
}

// One text is decoded as it was by an engine of its own.
TEST(loop_one_text_reads_no_token_twice) {
    Models models = counting_models();
    Job job;
    job.prompt = {10, 11};
    job.max_tokens = 4;
    job.head = defer_at({3, 5});
    World w(models, one_slot());
    w.add(std::vector<Job>{job});
    w.run();
    CHECK_EQ(w.written[0].sequence.tokens, (Text{10, 11, 12, 14, 15, 17}));
    CHECK_EQ(batches(*w.base), (Log{"0@0: 10 11*", "0@2: 12*", "0@3: 14*", "0@4: 15*"}));
    CHECK_EQ(batches(*w.assistant), (Log{"0@0: 10 11 12*", "0@3: 14 15*"}));
    CHECK_EQ(w.written[0].sequence.stats.base_tokens_read, 5);
    CHECK_EQ(w.written[0].sequence.stats.assistant_tokens_read, 5);
    CHECK_EQ(w.written[0].sequence.calls.size(), 6);
}

TEST(loop_reads_the_last_token_of_a_prompt_alone_where_a_head_looks_at_its_hidden_state) {
    Job job;
    job.prompt = {10, 11, 12};
    job.head = learned_head();
    job.max_tokens = 1;
    World w(counting_models(), one_slot());
    w.add(std::vector<Job>{job});
    w.run();
    CHECK_EQ(batches(*w.base), (Log{"0@0: 10 11", "0@2: 12* hidden"}));
}

TEST(loop_texts_share_decodes) {
    World w(counting_models());
    std::vector<Job> jobs(3);
    jobs[0].prompt = {10, 11};
    jobs[1].prompt = {12};
    jobs[2].prompt = {13, 14, 15};
    for (Job& job : jobs) job.max_tokens = 3;
    w.add(jobs);
    w.run();
    CHECK_EQ(w.ended, (std::vector<std::size_t>{0, 1, 2}));
    CHECK_EQ(batches(*w.base), (Log{"0@0: 10 11* | 1@0: 12* | 2@0: 13 14 15*",
                                    "0@2: 12* | 1@1: 13* | 2@3: 16*", "0@3: 13* | 1@2: 14* | 2@4: 17*"}));
    CHECK_EQ(w.loop->n_steps(), 3);
    CHECK(w.assistant->batches.empty());
}

TEST(loop_experts_read_along) {
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
    CHECK_EQ(w.written[0].sequence.tokens, (Text{10, 11, 13, 14, 15, 17}));
    CHECK_EQ(w.written[1].sequence.tokens, (Text{1, 2, 4, 5, 6}));
    // Whom it was never asked about it does not read; where none is deferred it reads nothing.
    CHECK_EQ(batches(*w.assistant), (Log{"0@0: 10 11*", "0@2: 13 | 1@0: 1 2*", "0@3: 14 15* | 1@2: 4 5"}));
    CHECK_EQ(w.written[0].sequence.stats.assistant_calls, 2);
    CHECK_EQ(w.written[1].sequence.stats.assistant_tokens_read, 4);
    CHECK_EQ(w.written[2].sequence.stats.assistant_tokens_read, 0);
}

TEST(loop_asks_only_the_experts_that_matter) {
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
    CHECK_EQ(batches(*w.base), (Log{"1@0: 12* | 2@0: 14*"}));
    CHECK_EQ(batches(*w.assistant), (Log{"0@0: 10* | 2@0: 14*"}));
}

TEST(loop_one_call_verifies_the_drafts_of_all_texts) {
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
    CHECK_EQ(w.assistant->batches.size(), 3);  // for 48 deferred tokens
    CHECK_EQ(w.base->batches.size(), 12);
    for (std::size_t i = 0; i < 4; ++i) {
        CHECK_EQ(w.written[i].sequence.stats.n_accepted, 12);
        CHECK_EQ(w.written[i].sequence.stats.assistant_calls, 3);
    }
    CHECK_EQ(w.assistant->log[0],
             "0@0: 2* 3* 4* 5* | 1@0: 3* 4* 5* 6* | 2@0: 4* 5* 6* 7* | 3@0: 5* 6* 7* 8*");
}

TEST(loop_look_ahead_halves_the_calls_of_four_texts) {
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
            n_calls[lookahead > 0] += w.written[i].sequence.stats.assistant_calls;
        }
    }
    CHECK(2 * n_calls[1] <= n_calls[0]);
}

TEST(loop_replaces_a_rejected_draft_token_and_goes_back_to_it) {
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
    CHECK_EQ(w.written[0].sequence.tokens, (Text{10, 11, 12, 17, 18, 19}));
    CHECK_EQ(w.assistant->log, (Log{"0@0: 10* 11* 12* 13*", "rewind 0: 3 -> 3", "0@3: 17* 18*"}));
    CHECK_EQ(w.base->log, (Log{"0@0: 10*", "0@1: 11*", "0@2: 12*", "0@3: 13*", "rewind 0: 3 -> 3", "0@3: 17*",
                               "0@4: 18*"}));
    CHECK_EQ(w.written[0].sequence.stats.n_drafted, 5);
    CHECK_EQ(w.written[0].sequence.stats.n_accepted, 4);
}

TEST(loop_a_head_that_needs_no_base_lets_the_expert_write_one_more) {
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
    CHECK_EQ(stats.assistant_calls, 2);  // four draft tokens and a token of its own, twice
    CHECK_EQ(stats.n_drafted, 8);
    CHECK_EQ(stats.base_steps, 8);
}

TEST(loop_look_ahead_is_off_for_models_that_cannot_go_back) {
    Limits limits = one_slot();
    limits.can_rewind = false;
    Job job;
    job.policy.threshold = 0.0;
    job.head = named("confidence");
    job.lookahead = 8;
    World w(Models(), limits);
    w.add(std::vector<Job>{job});
    w.run();
    CHECK_EQ(w.written[0].sequence.stats.n_drafted, 0);
    CHECK(!w.written[0].sequence.stats.lookahead);
}

TEST(loop_text_fails_alone) {
    // Text 1 fails at its third token, in every way that a text may fail of its own.
    Text all;
    for (std::size_t i = 0; i < kVocab; ++i) all.push_back(static_cast<Token>(i));
    struct Failure {
        const char* message;
        std::function<void(Job&, Models&)> prepare;
    };
    const auto nan_at_third = [](const HeadInput& input) {
        return input.position == 5 ? reference::kNanD : 1.0;
    };
    const auto damaged = [](FakeModel::Function function) {
        return [function = std::move(function)](const Text& text) {
            std::vector<float> logits = function(text);
            if (text[0] == 11 && text.size() == 5) logits[2] = reference::kNan;
            return logits;
        };
    };
    const std::vector<Failure> failures = {
        {"every token is banned", [&](Job& job, Models&) { job.banned = all; }},
        {"a logit of nan", [&](Job&, Models& models) { models.base = damaged(models.base); }},
        {"a logit of nan",
         [&](Job& job, Models& models) {
             job.head = named("always");
             models.assistant = damaged(models.assistant);
         }},
        {"deferral logit is NaN",
         [&](Job& job, Models&) { job.head = std::make_shared<TestHead>(nan_at_third); }},
        {"deferral logit is NaN",
         [&](Job& job, Models&) { job.head = std::make_shared<TestHead>(nan_at_third, false); }},
        {"the token is refused", [](Job& job, Models&) { job.refused_at = 2; }},
    };
    for (const Failure& failure : failures)
        for (const int lookahead : {0, 5, kAutoLookahead}) {
            const Models whole;
            Models models;
            std::vector<Job> jobs(5);
            for (std::size_t i = 0; i < jobs.size(); ++i) {
                jobs[i].prompt = {static_cast<Token>(10 + i), 2, static_cast<Token>(i)};
                jobs[i].head = named("random");
                jobs[i].seed = static_cast<std::uint32_t>(i);
                jobs[i].max_tokens = 6 + static_cast<int>(i);
                jobs[i].banned = {kEnd};
                jobs[i].lookahead = lookahead;
            }
            jobs[1].head = named("never");
            failure.prepare(jobs[1], models);
            World w(models);
            w.add(jobs);
            w.run();
            for (const std::size_t i : {0, 2, 3, 4})
                check_text(w.written.at(i), write_alone(whole, jobs[i], w.loop->n_ctx()));
            CHECK(w.written.at(1).error.find(failure.message) != std::string::npos);
            check_text(w.written.at(1), write_alone(models, jobs[1], w.loop->n_ctx()));
        }
}

TEST(loop_failed_decode_fails_those_that_asked) {
    const Models models;
    std::vector<Job> jobs(4);
    for (std::size_t i = 0; i < jobs.size(); ++i) {
        jobs[i].prompt = {static_cast<Token>(10 + i), static_cast<Token>(i)};
        jobs[i].head = named(i % 2 == 0 ? "random" : "always");
        jobs[i].seed = static_cast<std::uint32_t>(i);
    }
    for (const bool in_assistant : {false, true})
        for (std::size_t at = 0; at < 5; ++at) {
            World w(models);
            w.add(jobs);
            std::size_t n_failed = 0;
            (in_assistant ? w.assistant : w.base)->on_eval = [&](std::size_t i, Interrupt&) {
                if (i == at) throw colm::GenerationError("decode failed");
            };
            w.run();
            for (std::size_t i = 0; i < jobs.size(); ++i) {
                const Written& got = w.written.at(i);
                const Written alone = write_alone(models, jobs[i], w.loop->n_ctx());
                if (got.reason != FinishReason::failed) {
                    check_text(got, alone);
                    continue;
                }
                ++n_failed;
                CHECK_EQ(got.error, "decode failed");
                CHECK(std::equal(got.sequence.tokens.begin(), got.sequence.tokens.end(),
                                 alone.sequence.tokens.begin()));
            }
            CHECK(n_failed >= 1);
        }
}

TEST(loop_goes_on_after_a_cancelled_decode) {
    const Models models = nearly_alike(3, 0.5);
    reference::Random random(5);
    for (const bool in_assistant : {false, true})
        for (std::size_t at = 0; at < 30; ++at) {
            const std::vector<Job> jobs = random_jobs(random, 4);
            World w(models);
            w.add(jobs);
            (in_assistant ? w.assistant : w.base)->on_eval = [&](std::size_t i, Interrupt&) {
                if (i == at) throw colm::Cancelled();
            };
            bool more = true;
            while (more) {
                try {
                    more = w.step();
                } catch (const colm::Cancelled&) {
                }
            }
            for (std::size_t i = 0; i < jobs.size(); ++i)
                check_text(w.written.at(i), write_alone(models, jobs[i], w.loop->n_ctx()));
        }
}

TEST(loop_cancelling_all_stops_a_decode_at_once) {
    World w{Models()};
    std::vector<Job> jobs(2);
    jobs[1].prompt = {12};
    w.add(jobs);
    w.base->on_eval = [&](std::size_t i, Interrupt& interrupt) {
        if (i != 1) return;
        w.loop->cancel(*w.texts[0]);
        CHECK(!interrupt.requested());  // the other goes on
        w.loop->cancel(*w.texts[1]);
        CHECK(interrupt.requested());
        throw colm::Cancelled();
    };
    w.run();
    CHECK(!w.interrupt.requested());
    for (std::size_t i = 0; i < 2; ++i) {
        CHECK_EQ(w.written[i].reason, FinishReason::cancelled);
        CHECK_EQ(w.written[i].steps.size(), 1);
    }
}

TEST(loop_moves_only_texts_that_are_wanted) {
    World w(counting_models());
    std::vector<Job> jobs(2);
    jobs[1].prompt = {12};
    w.add(jobs);
    w.step();
    w.loop->rest(*w.texts[1]);
    w.step();
    w.step();
    CHECK_EQ(w.written[0].steps.size(), 3);
    CHECK_EQ(w.written[1].steps.size(), 1);
    w.loop->want(w.texts[1]);
    w.run();
    CHECK_EQ(w.written[1].steps.size(), 6);
    CHECK_EQ(w.base->n_read, 12);
}

TEST(loop_texts_enter_as_others_end) {
    Limits limits;
    limits.n_slots = 2;
    World w(counting_models(), limits);
    std::vector<Job> jobs(4);
    const int n_tokens[] = {1, 3, 2, 1};
    for (std::size_t i = 0; i < jobs.size(); ++i) {
        jobs[i].prompt = {static_cast<Token>(5 * i + 1), static_cast<Token>(5 * i + 1)};
        jobs[i].max_tokens = n_tokens[i];
    }
    w.add(jobs);
    w.run();
    CHECK_EQ(batches(*w.base),
             (Log{"0@0: 1 1* | 1@0: 6 6*", "0@0: 11 11* | 1@2: 7*", "0@2: 12* | 1@3: 8*", "1@0: 16 16*"}));
    CHECK_EQ(w.loop->n_steps(), 4);
}

TEST(loop_texts_that_may_have_no_token_take_no_slot) {
    Limits limits = one_slot();
    limits.n_ctx = 4;
    std::vector<Job> jobs(3);
    for (Job& job : jobs) job.max_tokens = 0;
    jobs[1].prompt = {1, 2, 3, 4};  // fills the context
    jobs[1].max_tokens = -1;
    World w(counting_models(), limits);
    w.add(jobs);
    w.run();
    for (const auto& [number, text] : w.written) CHECK_EQ(text.reason, FinishReason::length);
    CHECK(w.base->batches.empty());
}

TEST(loop_a_new_text_takes_the_slot_with_the_longest_beginning) {
    Limits limits;
    limits.n_slots = 2;
    limits.n_ctx = 100;
    World w(counting_models(), limits);
    std::vector<Job> jobs(2);
    for (std::size_t i = 0; i < 2; ++i) {
        jobs[i].prompt.assign(30, static_cast<Token>(5 + i));
        jobs[i].max_tokens = 1;
    }
    w.add(jobs);
    w.run();
    w.base->take_log();
    Job again = jobs[0];
    again.prompt.push_back(9);
    w.add(std::vector<Job>{again});
    w.run();
    CHECK_EQ(batches(*w.base), (Log{"0@30: 9*"}));
    Job other;
    other.prompt.assign(3, 20);
    other.max_tokens = 1;
    w.add(std::vector<Job>{other});  // the one that was not used for longest
    w.run();
    CHECK_EQ(batches(*w.base)[1], "1@0: 20 20 20*");
}

TEST(loop_a_common_beginning_is_read_once) {
    Limits limits;
    limits.n_slots = 3;
    limits.n_ctx = 60;
    World w(counting_models(), limits);
    std::vector<Job> jobs(3);
    for (std::size_t i = 0; i < 3; ++i) {
        jobs[i].prompt.assign(40, 5);
        jobs[i].prompt.push_back(static_cast<Token>(10 + i));
        jobs[i].max_tokens = 1;
    }
    w.add(jobs);
    w.run();
    CHECK_EQ(w.base->n_read, 43);
}

TEST(loop_two_long_texts_that_alternate_in_one_slot_are_read_once) {
    for (const bool can_rewind : {true, false}) {
        Limits limits = one_slot();
        limits.n_ctx = 400;
        limits.cache_bytes = 100000;
        limits.can_rewind = can_rewind;
        const Models models;
        World w(models, limits);
        Text chats[2] = {Text(100, 5), Text(100, 6)};
        for (int turn = 0; turn < 6; ++turn) {
            Text& chat = chats[turn % 2];
            Job job;
            job.prompt = chat;
            job.head = named("random");
            job.banned = {kEnd};
            job.max_tokens = 10;
            const std::size_t before[2] = {w.base->n_read, w.assistant->n_read};
            w.add(std::vector<Job>{job});
            w.run();
            const Written& text = w.written.at(w.texts.back()->id());
            check_text(text, write_alone(models, job, limits.n_ctx));
            // New are ten tokens of the user's, and those written now and the last of the turn before.
            if (turn >= 2) {
                CHECK(w.base->n_read - before[0] <= 21);
                CHECK(w.assistant->n_read - before[1] <= 31);  // it may not have read the last ones
            }
            chat = text.sequence.tokens;
            chat.insert(chat.end(), 10, static_cast<Token>(turn + 7));
        }
        CHECK(w.loop->saved().bytes() > 0 && w.loop->saved().bytes() <= limits.cache_bytes);
    }
}

TEST(loop_what_cannot_be_restored_is_read_again) {
    Limits limits = one_slot();
    limits.n_ctx = 200;
    limits.cache_bytes = 100000;
    const Models models;
    World w(models, limits);
    w.base->can_restore = w.assistant->can_restore = false;
    for (const Token first : {5, 6, 5, 6}) {
        Job job;
        job.prompt.assign(100, first);
        job.head = named("random");
        w.add(std::vector<Job>{job});
        w.run();
        check_text(w.written.at(w.texts.back()->id()), write_alone(models, job, limits.n_ctx));
    }
}

TEST(loop_never_chooses_what_stands_for_no_token) {
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
            CHECK_EQ(w.written[0].sequence.tokens, (Text{10, 9, 9}));
            CHECK_EQ(w.written[1].sequence.tokens, (Text{10, 6, 6}));
        }
}

TEST(loop_auto_drafts_where_it_pays_alone) {
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
    CHECK_NEAR(gpu.call_seconds(1), 0.020, 1e-3);
    CHECK_NEAR(gpu.token_seconds(1), 0.0001, 2e-4);
    CHECK(gpu.worth_going_on({0.9}, 1, 1));
    CHECK(gpu.worth_going_on({0.5}, 1, 1));
    CHECK(!gpu.worth_going_on({0.05}, 1, 1));
    // Beside others that are right already, a call is saved only if no text needs it.
    CHECK(gpu.worth_going_on({0.9, 0.9, 0.9, 0.9}, 1, 4));
    CHECK(!gpu.worth_going_on({0.1, 0.1, 0.1, 0.1, 0.1, 0.1}, 1, 1));
    // Reading is no faster than writing: nothing is saved by asking once for two.
    CHECK(!estimates(0.030, 0.0, 0.070, 1.0).worth_going_on({0.9}, 1, 1));
    // Never before both were measured.
    colm::Estimates none;
    CHECK(!none.worth_going_on({1.0}, 1, 1));
    none.reading(kBase, 1, 0.01);
    CHECK(!none.worth_going_on({1.0}, 1, 1));
    none.reading(1, 1, 0.05);
    // Nor before time was spent, of which a little may be lost.
    CHECK(!none.worth_going_on({0.95}, 1, 1));
    for (int i = 0; i < 20; ++i) none.reading(1, 1, 0.05);
    CHECK(none.worth_going_on({0.95}, 1, 1));
}

TEST(loop_learns_the_acceptance_rate) {
    colm::Estimates e;
    CHECK_NEAR(e.acceptance_rate(2.0), reference::sigmoid(2.0), 1e-9);
    for (int i = 0; i < 400; ++i) e.verified(2.0, i % 4 == 0);
    CHECK_NEAR(e.acceptance_rate(2.0), 0.25, 0.03);
    // The base is trusted less elsewhere, too.
    CHECK(e.acceptance_rate(-1.0) < 0.5 * reference::sigmoid(-1.0));
    // One slow batch does not change its mind.
    for (int i = 0; i < 20; ++i) e.reading(1, 1, 0.05);
    const double before = e.call_seconds(1) + e.token_seconds(1);
    e.reading(1, 1, 5.0);
    CHECK(e.call_seconds(1) + e.token_seconds(1) < 1.2 * before);
}
