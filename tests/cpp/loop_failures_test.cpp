// Texts of the loop that fail or are cancelled, and what becomes of the others.
#include <new>

#include "colm/inbox.h"
#include "loop_models.h"

using colm::FinishReason;
using colm::HeadInput;
using colm::Interrupt;
using colm::kAutoLookahead;
using colm::Token;
using Text = FakeModel::Text;

TEST_CASE("loop: text fails alone") {
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
        {"defer logit is NaN",
         [&](Job& job, Models&) { job.head = std::make_shared<TestHead>(nan_at_third); }},
        {"defer logit is NaN",
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
            REQUIRE(w.written.at(1).error.find(failure.message) != std::string::npos);
            check_text(w.written.at(1), write_alone(models, jobs[1], w.loop->n_ctx()));
        }
}

TEST_CASE("loop: failed decode fails those that asked") {
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
                REQUIRE_EQ(got.error, "decode failed");
                REQUIRE(std::equal(got.sequence.tokens.begin(), got.sequence.tokens.end(),
                                   alone.sequence.tokens.begin()));
            }
            REQUIRE(n_failed >= 1);
        }
}

TEST_CASE("loop: goes on after a cancelled decode") {
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

TEST_CASE("loop: cancelling all stops a decode at once") {
    World w{Models()};
    std::vector<Job> jobs(2);
    jobs[1].prompt = {12};
    w.add(jobs);
    w.base->on_eval = [&](std::size_t i, Interrupt& interrupt) {
        if (i != 1) return;
        w.loop->cancel(*w.texts[0]);
        REQUIRE(!interrupt.requested());  // the other goes on
        w.loop->cancel(*w.texts[1]);
        REQUIRE(interrupt.requested());
        throw colm::Cancelled();
    };
    w.run();
    REQUIRE(!w.interrupt.requested());
    for (std::size_t i = 0; i < 2; ++i) {
        REQUIRE_EQ(w.written[i].reason, FinishReason::cancelled);
        REQUIRE_EQ(w.written[i].steps.size(), 1);
    }
}

TEST_CASE("loop: without memory to save a text, others are written all the same") {
    Limits limits = one_slot();
    limits.n_ctx = 200;
    limits.cache_bytes = 100000;
    World w(counting_models(), limits);
    std::vector<Job> jobs(2);
    for (std::size_t i = 0; i < jobs.size(); ++i) jobs[i].prompt.assign(60, static_cast<Token>(3 + i));
    w.base->on_save = [] { throw std::bad_alloc(); };
    for (std::size_t i = 0; i < jobs.size(); ++i) {
        w.add(jobs, i, i + 1);
        w.run();
        REQUIRE_EQ(w.written[i].reason, FinishReason::length);
    }
    REQUIRE_EQ(w.loop->saved().size(), 0);
    w.base->on_save = {};
    w.add(jobs, 0, 1);
    w.run();
    REQUIRE_EQ(w.loop->saved().size(), 1);
}

TEST_CASE("loop: a text cancelled just before its step is not waited for, and others may stop it") {
    colm::Inbox inbox;
    colm::Slots slots(1);
    Interrupt interrupt;
    const auto text = inbox.add(make_writing(Job(), 100), 0, colm::Choices{kVocab, {}});
    slots.want(text);
    slots.give(0, text);
    REQUIRE_FALSE(inbox.cancel(*text, slots));
    inbox.begin_step({text.get()}, interrupt);
    REQUIRE(interrupt.requested());
    REQUIRE(inbox.end_step(interrupt));
    REQUIRE_FALSE(interrupt.requested());

    inbox.begin_step({text.get()}, interrupt);
    interrupt.request();
    REQUIRE(inbox.end_step(interrupt));
    REQUIRE(interrupt.requested());
}
