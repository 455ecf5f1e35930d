// Which slot of the loop a text takes, and what is read again.
#include "colm/inbox.h"
#include "loop_models.h"

using colm::FinishReason;
using colm::Token;
using Text = FakeModel::Text;

TEST_CASE("loop: moves only texts that are wanted") {
    World w(counting_models());
    std::vector<Job> jobs(2);
    jobs[1].prompt = {12};
    w.add(jobs);
    w.step();
    w.loop->rest(*w.texts[1]);
    w.step();
    w.step();
    REQUIRE_EQ(w.written[0].steps.size(), 3);
    REQUIRE_EQ(w.written[1].steps.size(), 1);
    w.loop->want(w.texts[1]);
    w.run();
    REQUIRE_EQ(w.written[1].steps.size(), 6);
    REQUIRE_EQ(w.base->n_read, 12);
}

TEST_CASE("loop: texts enter as others end") {
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
    REQUIRE_EQ(batches(*w.base),
               (Log{"0@0: 1 1* | 1@0: 6 6*", "0@0: 11 11* | 1@2: 7*", "0@2: 12* | 1@3: 8*", "1@0: 16 16*"}));
    REQUIRE_EQ(w.loop->n_steps(), 4);
}

TEST_CASE("loop: texts that may have no token take no slot") {
    Limits limits = one_slot();
    limits.n_ctx = 4;
    std::vector<Job> jobs(3);
    for (Job& job : jobs) job.max_tokens = 0;
    jobs[1].prompt = {1, 2, 3, 4};  // fills the context
    jobs[1].max_tokens = -1;
    World w(counting_models(), limits);
    w.add(jobs);
    w.run();
    for (const auto& [number, text] : w.written) REQUIRE_EQ(text.reason, FinishReason::length);
    REQUIRE(w.base->batches.empty());
}

TEST_CASE("loop: a new text takes the slot with the longest beginning") {
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
    REQUIRE_EQ(batches(*w.base), (Log{"0@30: 9*"}));
    Job other;
    other.prompt.assign(3, 20);
    other.max_tokens = 1;
    w.add(std::vector<Job>{other});  // the one that was not used for longest
    w.run();
    REQUIRE_EQ(batches(*w.base)[1], "1@0: 20 20 20*");
}

TEST_CASE("loop: a common beginning is read once") {
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
    REQUIRE_EQ(w.base->n_read, 43);
}

TEST_CASE("loop: two long texts that alternate in one slot are read once") {
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
                REQUIRE(w.base->n_read - before[0] <= 21);
                REQUIRE(w.assistant->n_read - before[1] <= 31);  // it may not have read the last ones
            }
            chat = text.sequence.tokens;
            chat.insert(chat.end(), 10, static_cast<Token>(turn + 7));
        }
        REQUIRE(w.loop->saved().bytes() > 0);
        REQUIRE(w.loop->saved().bytes() <= limits.cache_bytes);
    }
}

TEST_CASE("loop: what cannot be restored is read again") {
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

TEST_CASE("loop: a reader that returns while its slot is given away queues again") {
    colm::Inbox inbox;
    colm::Slots slots(1);
    const auto first = inbox.add(make_writing(Job(), 100), 0, colm::Choices{kVocab, {}});
    const auto second = inbox.add(make_writing(Job(), 100), 0, colm::Choices{kVocab, {}});
    slots.want(first);
    slots.give(0, first);
    slots.rest(*first);
    slots.want(second);
    REQUIRE_EQ(slots.free_for(*second), std::vector<std::size_t>{0});
    slots.want(first);  // between the choice of the slot and its use
    slots.give(0, second);
    REQUIRE(slots.must_wait(*first));
    REQUIRE_EQ(slots.first_waiting(), first);
    slots.leave(*second);
    REQUIRE_FALSE(slots.must_wait(*first));
}
