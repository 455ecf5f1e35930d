// Texts whose expert is asked by calls that block, on threads of its own.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "colm/stream.h"
#include "remote_worlds.h"

using colm::kBase;
using colm::Likeliest;
using colm::RemoteExpert;
using colm::Token;
using Text = FakeModel::Text;

namespace {

using Micros = std::chrono::microseconds;

colm::RemoteError down() {
    return {"RemoteUnreachable", "http://far: connection refused", "http://far", "connection refused", 0};
}

// Answers from a table, after a while.
class TableCalls final : public colm::RemoteCalls {
  public:
    TableCalls(FakeModel::Function function, std::size_t n_likeliest)
        : function_(std::move(function)), n_likeliest_(n_likeliest) {}

    std::vector<Likeliest> ask(std::size_t, const std::vector<Token>& tokens,
                               const std::vector<std::size_t>& counts,
                               const std::function<bool()>& wanted) override {
        const std::size_t call = n_calls++;
        while (looks && wanted()) std::this_thread::sleep_for(Micros(100));
        if (!wanted()) throw down();
        const std::size_t before = n_decodes ? n_decodes() : 0;
        {
            std::unique_lock<std::mutex> lock(mutex_);
            changed_.wait_for(lock, delay, [this] { return released_; });
        }
        if (n_decodes) most_decodes = std::max(most_decodes.load(), n_decodes() - before);
        most_counts = std::max(most_counts.load(), counts.size());
        if (call >= fails_from && call < fails_to) throw down();
        std::vector<Likeliest> found;
        for (const std::size_t count : counts)
            found.push_back(likeliest_of(
                function_(Text(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(count))),
                n_likeliest_));
        return found;
    }
    void release() {
        const std::lock_guard<std::mutex> lock(mutex_);
        released_ = true;
        looks = false;
        changed_.notify_all();
    }

    Micros delay{0};
    std::atomic<bool> looks{false};  // a call lasts until release(), or until nobody wants it
    std::size_t fails_from = 1000000, fails_to = 1000000;  // numbers of calls
    std::function<std::size_t()> n_decodes;                // of the base
    std::atomic<std::size_t> n_calls{0}, most_counts{0}, most_decodes{0};

  private:
    FakeModel::Function function_;
    std::size_t n_likeliest_;
    std::mutex mutex_;
    std::condition_variable changed_;
    bool released_ = false;
};

struct FarWorld : World {
    explicit FarWorld(const Models& models, const Limits& limits = {}, bool replaceable = false,
                      std::size_t n_likeliest = 6)
        : World(models, limits), calls(std::make_shared<TableCalls>(models.assistant, n_likeliest)) {
        auto local = std::make_unique<colm::LocalExpert>(base, kBase, models.choices.n_shared);
        calls->n_decodes = [of_base = local.get()] { return of_base->n_decodes(); };
        colm::Loop::Experts experts;
        experts.push_back(std::move(local));
        const colm::RemoteLimits far{limits.n_slots, 1000, 16, models.choices.n_shared, replaceable};
        auto expert = std::make_unique<RemoteExpert>(calls, far);
        remote = expert.get();
        experts.push_back(std::move(expert));
        for (colm::ExpertId id = 2; id < all.size(); ++id)
            experts.push_back(std::make_unique<colm::LocalExpert>(all[id], id, models.choices.n_shared));
        loop = std::make_unique<colm::Loop>(std::move(experts), models.choices);
    }
    // A call of a text that was cancelled may be under way, and looks at the base.
    ~FarWorld() {
        calls->release();
        remote->stop();
    }
    FarWorld(const FarWorld&) = delete;
    FarWorld& operator=(const FarWorld&) = delete;

    std::shared_ptr<TableCalls> calls;
    RemoteExpert* remote;
};

}  // namespace

TEST_CASE("remote_calls: texts that draft on, come and go are what each is alone") {
    reference::Random random(7);
    Seen seen;
    std::size_t n_together = 0, n_meanwhile = 0;
    for (std::uint32_t round = 0; round < reference::rounds(120); ++round) {
        Models models;
        models.assistant = nearly(models.base, round, kVocab, random.between(0.0, 1.0));
        Limits limits;
        limits.n_slots = 1 + random.below(4);
        FarWorld w(models, limits);
        // Every tenth server is so slow that a text drafts on, however busy the machine is.
        w.calls->delay = Micros(round % 10 == 0 ? 5000 : random.below(400));
        check_round(w, models, far_jobs(random), random, 0.5, seen, check_far);
        n_together += w.calls->most_counts > 1 ? 1 : 0;
        n_meanwhile += w.calls->most_decodes > 1 ? 1 : 0;
    }
    REQUIRE(seen.n_drafted > reference::rounds(500));
    REQUIRE(seen.n_rejected > reference::rounds(100));
    REQUIRE(seen.reasons[colm::FinishReason::cancelled] > reference::rounds(20));
    REQUIRE(n_together > reference::rounds(30));
    REQUIRE(n_meanwhile > 0);
}

TEST_CASE("remote_calls: drawn texts and forbidden ids, with whole distributions") {
    for (const int lookahead : {0, 8, colm::kAutoLookahead}) {
        Models models;
        models.assistant = nearly(models.base, 9, kVocab, 0.6);
        models.choices = {kVocab - 2, {3, 7}};
        FarWorld w(models, {}, false, kVocab);
        w.calls->delay = Micros(200);
        std::vector<Job> jobs;
        for (std::uint32_t i = 0; i < 4; ++i) {
            jobs.push_back(far_job(i, lookahead));
            jobs.back().draws = true;
        }
        w.add(jobs);
        w.run();
        for (std::size_t i = 0; i < jobs.size(); ++i)
            check_like(w.written.at(i), write_alone(models, jobs[i], w.loop->n_ctx()));
    }
}

TEST_CASE("remote_calls: the base drafts on while a call is under way") {
    Models models;
    models.assistant = models.base;
    std::size_t n_calls[2] = {0, 0};
    std::size_t n_decodes[2] = {0, 0};
    for (const bool ahead : {false, true}) {
        FarWorld w(models);
        w.calls->delay = std::chrono::minutes(1);
        w.add({far_job(1, ahead ? 15 : 0)});
        for (int i = 0; i < 30; ++i) w.step();
        REQUIRE_EQ(w.calls->n_calls, 1);
        n_decodes[ahead ? 1 : 0] = w.calls->n_decodes();
        w.calls->release();
        w.run();
        REQUIRE_EQ(w.written.at(0).steps.size(), 24);
        n_calls[ahead ? 1 : 0] = w.calls->n_calls;
        REQUIRE_EQ(w.calls->most_counts > 1, ahead);
    }
    REQUIRE(n_decodes[1] > n_decodes[0] + 10);
    REQUIRE(3 * n_calls[1] < n_calls[0]);
}

TEST_CASE("remote_calls: auto sees how long a call takes") {
    Models models;
    models.assistant = models.base;
    FarWorld w(models);
    w.calls->delay = std::chrono::milliseconds(5);
    Job job = far_job(1, colm::kAutoLookahead);
    w.add({job});
    w.run();
    REQUIRE(w.loop->estimates().call_seconds(1) > 0.003);
    REQUIRE(w.written.at(0).sequence.stats.n_drafted > 3);
    // A base that takes much longer than a call does not write for nothing.
    colm::Estimates estimates;
    estimates.answers_later(1);
    for (int i = 0; i < 5; ++i) {
        estimates.reading(kBase, 1, 1.0);
        estimates.reading(1, 1, 0.001);
    }
    REQUIRE(!estimates.hides_latency(0.9, 1));
    REQUIRE(estimates.hides_latency(0.9999, 1));
}

TEST_CASE("remote_calls: stats say what was left out") {
    Models models;
    FarWorld w(models, {}, false, 4);
    w.add({far_job(0, 0, "always")});
    w.run();
    const colm::Work work = w.written.at(0).sequence.stats.of(1);
    REQUIRE_EQ(work.calls, 24);
    REQUIRE_EQ(work.n_truncated, 24);
    REQUIRE_EQ(work.n_named, 4);
    REQUIRE(work.tail > 0.1);
    REQUIRE(work.tail < 24.0);
    REQUIRE(work.seconds > 0.0);
}

TEST_CASE("remote_calls: that fail end their text, and no other") {
    for (const int lookahead : {0, 8}) {
        FarWorld w{Models()};
        w.calls->fails_from = 2;
        w.add({far_job(0, lookahead), far_job(1, lookahead, "never")});
        w.run();
        REQUIRE_EQ(w.written[0].error, down().what());
        REQUIRE_EQ(w.written[0].reason, colm::FinishReason::failed);
        REQUIRE_EQ(w.written[1].steps.size(), 24);
        REQUIRE_EQ(w.written[1].sequence.stats.of(kBase).tokens_read, 25);  // nothing was read again
    }
}

TEST_CASE("remote_calls: a text goes on without an expert that fails, and the next one asks it again") {
    std::size_t n_without = 0;
    for (std::uint32_t round = 0; round < 40; ++round) {
        reference::Random random(round);
        Models models;
        models.assistant = nearly(models.base, round, kVocab, 0.5);
        FarWorld w(models, {}, true);
        w.calls->delay = Micros(random.below(300));
        w.calls->fails_from = random.below(4);
        w.calls->fails_to = w.calls->fails_from + 1;
        const int lookaheads[] = {0, 2, 15, colm::kAutoLookahead};
        Job job = far_job(round % 8, lookaheads[round % 4], round % 3 == 0 ? "always" : "random");
        if (round % 5 == 0) job.policy.hold = 3;
        w.add({job});
        w.run();
        const Written& got = w.written.at(0);
        const Written alone = write_alone(models, job, w.loop->n_ctx());
        REQUIRE_EQ(got.error, "");
        REQUIRE_EQ(got.steps.size(), 24);
        std::size_t n = 0;
        while (n < 24 && got.steps[n].step.expert == alone.steps[n].step.expert &&
               got.steps[n].step.token == alone.steps[n].step.token)
            ++n;
        Text tokens = job.prompt;
        for (std::size_t i = 0; i < 24; ++i) {
            if (i >= n) {
                std::vector<float> logits = models.base(tokens);
                logits[kEnd] = -reference::kInf;
                REQUIRE_EQ(got.steps[i].step.expert, kBase);
                REQUIRE_EQ(got.steps[i].step.token, static_cast<Token>(reference::argmax(logits)));
            }
            tokens.push_back(got.steps[i].step.token);
        }
        const std::size_t failures = got.sequence.stats.of(1).failures;
        REQUIRE_EQ(failures, w.calls->n_calls > w.calls->fails_from ? 1 : 0);
        n_without += failures;
        if (failures == 1) REQUIRE_EQ(w.calls->n_calls, w.calls->fails_from + 1);
        w.add({far_job(3, 0, "always")});
        w.run();
        check_like(w.written.at(1), write_alone(models, far_job(3, 0, "always"), w.loop->n_ctx()));
    }
    REQUIRE(n_without > 30);
}

TEST_CASE("remote_calls: where none of the tokens that it names may follow, the base writes") {
    std::size_t n_passed = 0;
    for (std::uint32_t round = 0; round < 18; ++round) {
        Models models;
        models.assistant = nearly(models.base, round, kVocab, 0.7);
        FarWorld w(models, {}, round % 2 == 0, 1);
        const int lookaheads[] = {0, 8, colm::kAutoLookahead};
        Job job = far_job(round % 6, lookaheads[round / 6], round % 4 == 0 ? "always" : "random");
        job.banned = {kEnd, 3, 5, 8, 13, 21};
        if (round % 5 == 0) job.policy.hold = 3;
        w.add({job});
        w.run();
        const Written& got = w.written.at(0);
        REQUIRE_EQ(got.error, "");
        REQUIRE_EQ(got.steps.size(), kFarTokens);
        const std::size_t n_before = n_passed;
        Text tokens = job.prompt;
        for (const colm::StreamedStep& streamed : got.steps) {
            const colm::Step& step = streamed.step;
            std::vector<float> of_base = models.base(tokens);
            for (const Token token : job.banned) of_base[static_cast<std::size_t>(token)] = -reference::kInf;
            const auto named = static_cast<Token>(reference::argmax(models.assistant(tokens)));
            const bool may = std::count(job.banned.begin(), job.banned.end(), named) == 0;
            const bool held = std::isnan(step.defer_logit);
            const bool deferred = held || colm::Policy::defers(step.defer_logit, step.threshold);
            REQUIRE_EQ(step.expert, deferred && may ? 1 : kBase);
            REQUIRE_EQ(step.token, deferred && may ? named : static_cast<Token>(reference::argmax(of_base)));
            n_passed += deferred && !may ? 1 : 0;
            tokens.push_back(step.token);
        }
        REQUIRE_EQ(got.sequence.stats.of(1).failures, 0);
        // Nothing was forgotten: a head that looks at the base has it read a token again where it writes.
        if (job.lookahead == 0)
            REQUIRE(got.sequence.stats.of(kBase).tokens_read <= kFarTokens + 1 + n_passed - n_before);
    }
    REQUIRE(n_passed > 30);
}

TEST_CASE("remote_calls: where one fails another writes, though the head names the one alone") {
    for (const int lookahead : {0, 8}) {
        Models models = counting_models();
        models.more = {counting(3)};
        FarWorld w(models, {}, true);
        w.calls->fails_from = 0;
        Job job = far_job(0, lookahead);
        job.head = std::make_shared<colm::DirectedHead>(named("always"), 1, 2);
        job.policy.threshold = 0.0;  // deferred, whatever the scores are
        w.add({job});
        w.run();
        REQUIRE_EQ(w.calls->n_calls, 1);
        REQUIRE_EQ(w.written.at(0).steps.size(), kFarTokens);
        for (const colm::StreamedStep& streamed : w.written.at(0).steps) REQUIRE_EQ(streamed.step.expert, 2);
    }
}

TEST_CASE("remote_calls: a text is cancelled while a call hangs, and its slot is used again") {
    for (const bool looks : {false, true}) {
        Limits one_slot;
        one_slot.n_slots = 1;
        FarWorld w(Models(), one_slot);
        w.calls->delay = std::chrono::minutes(1);
        w.calls->looks = looks;
        w.add({far_job(0, 0, "always")});
        while (w.calls->n_calls == 0) w.step();
        w.cancel(0);
        w.step();
        REQUIRE_EQ(w.written.at(0).reason, colm::FinishReason::cancelled);
        w.add({far_job(1, 0, "always")});
        w.step();
        for (int i = 0; looks && w.calls->n_calls == 1; ++i, w.step())  // until the one that looks ends
            REQUIRE(i < 1000);
        w.calls->release();
        w.run();
        check_like(w.written.at(1), write_alone(Models(), far_job(1, 0, "always"), w.loop->n_ctx()));
    }
}

TEST_CASE("remote_calls: stop waits for the call under way, and no question is asked after it") {
    FarWorld w{Models()};
    w.calls->delay = std::chrono::minutes(1);
    w.add({far_job(0, 0, "always")});
    while (w.calls->n_calls == 0) w.step();
    std::atomic<bool> stopped{false};
    std::thread closer([&] {
        w.remote->stop();
        stopped = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    REQUIRE(!stopped);
    w.calls->release();
    closer.join();
    w.run();
    REQUIRE_EQ(w.written.at(0).error, colm::PairClosed().what());
    REQUIRE_EQ(w.calls->n_calls, 1);
}

TEST_CASE("remote_calls: threads write and leave texts while calls are under way, and then all is stopped") {
    std::shared_ptr<colm::SharedLoop> shared;  // the world uses its expert to the end
    FarWorld w{Models()};
    w.calls->delay = Micros(300);
    w.calls->n_decodes = nullptr;
    const std::size_t n_ctx = w.loop->n_ctx();
    const auto job_of = [](std::size_t i) {
        const int lookaheads[] = {0, 4, colm::kAutoLookahead};
        return far_job(static_cast<std::uint32_t>(i % 4), lookaheads[i % 3]);
    };
    std::vector<std::vector<Token>> alone;
    for (std::size_t i = 0; i < 4; ++i)
        alone.push_back(write_alone(Models(), job_of(i), n_ctx).sequence.tokens);
    shared = std::make_shared<colm::SharedLoop>(std::move(w.loop));

    std::atomic<std::size_t> n_right{0}, n_stopped{0}, n_wrong{0};
    std::atomic<bool> stopping{false};
    const auto write = [&](std::size_t i) {
        colm::Stream stream(shared, {});
        const Job job = job_of(i);
        const auto text = stream.add(make_writing(job, n_ctx), job.lookahead);
        if (i % 5 == 4) {
            stream.next();
            return stream.close();
        }
        while (stream.next()) {
        }
        if (text->error())
            ++(stopping ? n_stopped : n_wrong);
        else
            ++(text->sequence().tokens == alone[i % 4] ? n_right : n_wrong);
    };
    std::vector<std::thread> threads;
    for (std::size_t thread = 0; thread < 4; ++thread)
        threads.emplace_back([&, thread] {
            for (std::size_t i = 0; i < 10; ++i) write(thread + 7 * i);
            for (std::size_t i = 0; n_stopped == 0 && n_wrong == 0; ++i) write(thread + 7 * i);
        });
    while (n_right < 20 && n_wrong == 0) std::this_thread::sleep_for(Micros(200));
    stopping = true;
    w.remote->stop();
    for (std::thread& thread : threads) thread.join();
    REQUIRE_EQ(n_wrong, 0);
    REQUIRE(n_stopped > 0);
}
