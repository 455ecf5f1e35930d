// The loop with an expert that is nothing like a model in this process: it answers from a table, later, on
// another thread, with its likeliest tokens and the probability of the rest.
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>

#include "colm/stream.h"
#include "remote_worlds.h"

using colm::Answer;
using colm::Candidate;
using colm::Interrupt;
using colm::kBase;
using colm::Prediction;
using colm::Question;
using colm::Token;

namespace {

using Text = FakeModel::Text;

constexpr std::size_t kLikeliest = 4;
using Delay = std::chrono::microseconds;

class TableExpert final : public colm::Expert {
  public:
    TableExpert(FakeModel::Function function, std::size_t n_slots, Delay delay)
        : function_(std::move(function)), n_slots_(n_slots), delay_(delay), thread_([this] { serve(); }) {}
    ~TableExpert() override {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            over_ = true;
        }
        changed_.notify_all();
        thread_.join();
    }

    std::size_t n_slots() const override { return n_slots_; }
    std::size_t n_ctx() const override { return 1000; }
    std::size_t n_counts() const override { return 3; }
    bool goes_back() const override { return true; }

    void ask(std::vector<Question> questions) override {
        const std::lock_guard<std::mutex> lock(mutex_);
        for (Question& question : questions) {
            if (question.counts.empty()) continue;  // it has nothing to read
            // A copy: the text goes on, or back, before the answer comes.
            Asked asked{question.slot, next_++, {}, {question.excluded.begin(), question.excluded.end()}};
            for (const std::size_t count : question.counts)
                asked.texts.emplace_back(question.tokens->begin(),
                                         question.tokens->begin() + static_cast<std::ptrdiff_t>(count));
            asked_.push_back(std::move(asked));
        }
        changed_.notify_all();
    }

    void collect(bool wait, Interrupt& interrupt, const Use& use) override {
        std::vector<Answered> answered;
        {
            std::unique_lock<std::mutex> lock(mutex_);
            if (wait)
                changed_.wait_for(lock, std::chrono::milliseconds(5), [this] { return !answered_.empty(); });
            answered.swap(answered_);
        }
        interrupt.check();
        n_waits += wait ? 1 : 0;
        for (const Answered& a : answered)
            for (std::size_t i = 0; i < a.likeliest.size(); ++i) {
                if (i == fails_at) {
                    const auto error = std::make_exception_ptr(colm::GenerationError("the service is down"));
                    use({a.slot, i, nullptr, error});
                    break;
                }
                Prediction prediction;
                const auto& named = a.likeliest[i].candidates;
                prediction.likeliest = {named.data(), named.size()};
                prediction.tail = a.likeliest[i].tail;
                use({a.slot, i, &prediction, nullptr});
            }
    }

    void drop(std::size_t slot) override {
        const std::lock_guard<std::mutex> lock(mutex_);
        const auto about = [slot](const auto& a) { return a.slot == slot; };
        asked_.erase(std::remove_if(asked_.begin(), asked_.end(), about), asked_.end());
        answered_.erase(std::remove_if(answered_.begin(), answered_.end(), about), answered_.end());
        if (busy_ && busy_slot_ == slot) {
            busy_ = false;
            ++n_dropped;
            changed_.notify_all();
        }
    }

    bool is_busy() {
        const std::lock_guard<std::mutex> lock(mutex_);
        return busy_;
    }

    std::size_t fails_at = 1000;
    std::size_t n_waits = 0;
    std::size_t n_dropped = 0;  // questions that were taken back before they were answered

  private:
    struct Asked {
        std::size_t slot;
        std::size_t number;
        std::vector<Text> texts;
        std::vector<Token> excluded;
    };
    struct Answered {
        std::size_t slot;
        std::vector<colm::Likeliest> likeliest;
    };

    void serve() {
        std::unique_lock<std::mutex> lock(mutex_);
        while (true) {
            changed_.wait(lock, [this] { return over_ || !asked_.empty(); });
            if (over_) return;
            const Asked asked = asked_.front();
            asked_.erase(asked_.begin());
            busy_ = true;
            busy_slot_ = asked.slot;
            changed_.wait_for(lock, delay_, [this] { return over_ || !busy_; });
            if (!busy_) continue;
            lock.unlock();
            Answered answered{asked.slot, {}};
            for (const Text& text : asked.texts) {
                std::vector<float> logits = function_(text);
                for (const Token token : asked.excluded)
                    logits[static_cast<std::size_t>(token)] = -reference::kInf;
                answered.likeliest.push_back(likeliest_of(logits, kLikeliest));
            }
            lock.lock();
            if (busy_) answered_.push_back(std::move(answered));  // else it was dropped meanwhile
            busy_ = false;
            changed_.notify_all();
        }
    }

    FakeModel::Function function_;
    std::size_t n_slots_;
    Delay delay_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<Asked> asked_;
    std::vector<Answered> answered_;
    std::size_t next_ = 0;
    std::size_t busy_slot_ = 0;
    bool busy_ = false;
    bool over_ = false;
    std::thread thread_;  // the last member: it uses the others
};

struct RemoteWorld : World {
    explicit RemoteWorld(const Models& models, const Limits& limits = {},
                         Delay delay = std::chrono::milliseconds(1))
        : World(models, limits) {
        auto expert = std::make_unique<TableExpert>(models.assistant, limits.n_slots, delay);
        remote = expert.get();
        colm::Loop::Experts experts;
        experts.push_back(std::make_unique<colm::LocalExpert>(base, kBase, models.choices.n_shared));
        experts.push_back(std::move(expert));
        loop = std::make_unique<colm::Loop>(std::move(experts), models.choices);
    }
    TableExpert* remote;
};

}  // namespace

TEST_CASE("remote_expert: writes what a local one writes") {
    for (const int lookahead : {0, 2, colm::kAutoLookahead}) {
        Models models;
        models.assistant = nearly(models.base, 9, kVocab, 0.4);
        RemoteWorld w(models);
        std::vector<Job> jobs;
        for (std::uint32_t i = 0; i < 5; ++i) jobs.push_back(far_job(i, lookahead));
        w.add(jobs);
        w.run();
        std::size_t n_deferred = 0;
        for (std::size_t i = 0; i < jobs.size(); ++i) {
            check_like(w.written.at(i), write_alone(models, jobs[i], w.loop->n_ctx()));
            n_deferred += w.written.at(i).sequence.stats.n_deferred;
        }
        REQUIRE(n_deferred > 20);
    }
}

TEST_CASE("remote_expert: texts that draft and come and go are what each is alone") {
    reference::Random random(5);
    Seen seen;
    std::size_t n_dropped = 0;
    for (std::uint32_t round = 0; round < reference::rounds(100); ++round) {
        Models models;
        models.assistant = nearly(models.base, round, kVocab, random.between(0.0, 1.0));
        Limits limits;
        limits.n_slots = 1 + random.below(5);
        // Every fifth expert is so slow that a question is always open when a text is cancelled.
        RemoteWorld w(models, limits, Delay(round % 5 == 0 ? 5000 : random.below(300)));
        check_round(w, models, far_jobs(random), random, 0.5, seen, check_far);
        n_dropped += w.remote->n_dropped;
    }
    REQUIRE(seen.n_drafted > reference::rounds(500));
    REQUIRE(seen.n_rejected > reference::rounds(100));
    REQUIRE(seen.reasons[colm::FinishReason::cancelled] > reference::rounds(20));
    REQUIRE(n_dropped > 0);
}

TEST_CASE("remote_expert: a text is cancelled while its expert is waited for") {
    RemoteWorld w{Models(), {}, std::chrono::minutes(1)};
    TableExpert& remote = *w.remote;
    Job job = far_job(0, 2);
    job.head = named("always");
    const auto shared = std::make_shared<colm::SharedLoop>(std::move(w.loop));
    colm::Stream stream(shared, {});
    const std::shared_ptr<colm::Text> text = stream.add(make_writing(job, shared->n_ctx()), job.lookahead);
    std::optional<colm::Event> event;
    const auto begin = std::chrono::steady_clock::now();
    std::thread reader([&] { event = stream.next(); });
    while (!remote.is_busy()) std::this_thread::yield();
    stream.cancel();
    reader.join();
    REQUIRE(std::chrono::steady_clock::now() - begin < std::chrono::seconds(30));
    REQUIRE(event.has_value());
    REQUIRE(!event->step);
    REQUIRE_EQ(text->finish_reason(), colm::FinishReason::cancelled);
    REQUIRE(!remote.is_busy());  // the question was taken back
    REQUIRE_EQ(remote.n_dropped, 1);
}

TEST_CASE("remote_expert: is not waited for while others can go on") {
    RemoteWorld w{Models(), {}, std::chrono::milliseconds(20)};
    std::vector<Job> jobs = {far_job(0, 0), far_job(1, 0)};
    jobs[0].head = named("always");
    jobs[1].head = named("never");
    w.add(jobs);
    std::size_t n_steps = 0;
    while (w.written[1].steps.size() < kFarTokens) {
        w.step();
        ++n_steps;
    }
    REQUIRE_EQ(n_steps, kFarTokens);  // one token each
    REQUIRE_EQ(w.remote->n_waits, 0);
    REQUIRE(w.written[0].steps.size() < 10);
    w.run();
    REQUIRE(w.remote->n_waits > 0);
}

TEST_CASE("remote_expert: that fails fails its texts") {
    RemoteWorld w{Models()};
    std::vector<Job> jobs = {far_job(0, 0), far_job(1, 0)};
    jobs[1].head = named("never");
    w.remote->fails_at = 0;
    w.add(jobs);
    w.run();
    REQUIRE_EQ(w.written[0].error, "the service is down");
    REQUIRE_EQ(w.written[1].steps.size(), kFarTokens);
}

TEST_CASE("remote_expert: answers about a cancelled text are dropped") {
    Models models;
    RemoteWorld w(models, {}, std::chrono::milliseconds(10));
    std::vector<Job> jobs = {far_job(0, 0), far_job(1, 0)};
    jobs[0].head = named("always");
    w.add(jobs, 0, 1);
    w.step();
    w.loop->cancel(*w.texts[0]);
    jobs[1].head = named("always");
    w.add(jobs, 1);
    w.run();
    REQUIRE_EQ(w.written[0].reason, colm::FinishReason::cancelled);
    check_like(w.written[1], write_alone(models, jobs[1], w.loop->n_ctx()));
}

TEST_CASE("remote_expert: its distribution is summed up") {
    const std::vector<Candidate> likeliest = {{4, std::log(0.5f)}, {2, std::log(0.2f)}};
    const colm::Distribution d = colm::summarize({likeliest.data(), likeliest.size()}, 0.3, 1);
    REQUIRE_EQ(d.top, 4);
    REQUIRE_EQ(d.log_normalizer, about(0.0, 1e-12));
    REQUIRE_EQ(d.log_odds(), about(0.0, 1e-6));
    REQUIRE_EQ(d.entropy, about(0.5 * std::log(2.0) + 0.2 * std::log(5.0) - 0.3 * std::log(0.3), 1e-6));
    REQUIRE_EQ(d.top_logits.size(), 1);
    REQUIRE_THROWS_WITH_AS(colm::summarize({likeliest.data(), 0}, 1.0), doctest::Contains("named none"),
                           colm::GenerationError);
    REQUIRE_THROWS_WITH_AS(colm::summarize({likeliest.data(), 2}, 7.0), doctest::Contains("no probabilities"),
                           colm::GenerationError);
}
