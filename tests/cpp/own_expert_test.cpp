// The smallest expert that the loop can use. docs/own-expert.md begins with it.
#include <cmath>

#include "loop_models.h"

using colm::kBase;
using colm::Token;
using Text = FakeModel::Text;

namespace {

// After a token it expects the next higher one with probability 0.9, and says nothing of the others.
class Counter final : public colm::Expert {
  public:
    explicit Counter(std::size_t n_slots) : n_slots_(n_slots) {}

    std::size_t n_slots() const override { return n_slots_; }
    std::size_t n_ctx() const override { return 1000; }
    std::size_t n_counts() const override { return 8; }
    bool goes_back() const override { return true; }

    void ask(std::vector<colm::Question> questions) override {
        for (const colm::Question& question : questions) {
            // Only the ends are copied: the text goes on, or back, before the answer is heard.
            Asked asked{question.slot, {}, {question.excluded.begin(), question.excluded.end()}};
            for (const std::size_t count : question.counts)
                asked.last.push_back((*question.tokens)[count - 1]);
            asked_.push_back(std::move(asked));
        }
    }

    void collect(bool, colm::Interrupt& interrupt, const Use& use) override {
        interrupt.check();
        for (const Asked& asked : std::exchange(asked_, {}))
            for (std::size_t i = 0; i < asked.last.size(); ++i) {
                Token next = asked.last[i] + 1;
                while (std::find(asked.excluded.begin(), asked.excluded.end(), next) != asked.excluded.end())
                    ++next;
                const colm::Candidate likeliest{next, std::log(0.9f)};
                colm::Prediction prediction;
                prediction.likeliest = {&likeliest, 1};
                prediction.tail = 0.1;
                use({asked.slot, i, &prediction, nullptr});
            }
    }

    void drop(std::size_t slot) override {
        asked_.erase(std::remove_if(asked_.begin(), asked_.end(),
                                    [slot](const Asked& asked) { return asked.slot == slot; }),
                     asked_.end());
    }

  private:
    struct Asked {
        std::size_t slot;
        std::vector<Token> last;  // before each distribution that is wanted
        std::vector<Token> excluded;
    };

    std::size_t n_slots_;
    std::vector<Asked> asked_;
};

// A base that stays where it is, and the counter.
struct CounterWorld : World {
    explicit CounterWorld(const Models& models) : World(models) {
        colm::Loop::Experts experts;
        experts.push_back(std::make_unique<colm::LocalExpert>(base, kBase, models.choices.n_shared));
        experts.push_back(std::make_unique<Counter>(base->n_sequences()));
        loop = std::make_unique<colm::Loop>(std::move(experts), models.choices);
    }
};

}  // namespace

TEST_CASE("own_expert: it writes the tokens that are its own") {
    Models models;
    models.base = counting(0);
    for (const int lookahead : {0, 4, colm::kAutoLookahead}) {
        CounterWorld w(models);
        std::vector<Job> jobs(3);
        for (Job& job : jobs) {
            job.head = defer_at({1, 2, 4});
            job.max_tokens = 5;
            job.lookahead = lookahead;
        }
        jobs[1].prompt = {15};
        jobs[2].head = named("always");
        w.add(jobs);
        w.run();
        REQUIRE_EQ(w.written.at(0).sequence.tokens, (Text{10, 11, 12, 12, 13, 13}));
        REQUIRE_EQ(w.written.at(1).sequence.tokens, (Text{15, 16, 17, 17, 18, 18}));
        REQUIRE_EQ(w.written.at(2).sequence.tokens, (Text{10, 11, 12, 13, 14, 15}));
        REQUIRE_EQ(w.written.at(0).steps[0].step.logprob, about(std::log(0.9), 1e-5));
    }
}

TEST_CASE("own_expert: one that names a token that no model has fails its text, and no other") {
    Models models;
    models.base = counting(0);
    CounterWorld w(models);
    std::vector<Job> jobs(2);
    for (Job& job : jobs) {
        job.prompt = {kVocab - 2};
        job.max_tokens = 4;
        job.head = named("always");
    }
    jobs[1].head = named("never");
    w.add(jobs);
    w.run();
    REQUIRE_EQ(w.written.at(0).sequence.tokens, (Text{kVocab - 2, kVocab - 1}));
    REQUIRE_EQ(w.written.at(0).error, "expert 1 named token 24; ids from 0 to 23 can be chosen");
    REQUIRE_EQ(w.written.at(1).reason, colm::FinishReason::length);
}

TEST_CASE("own_expert: a token that may not be chosen is never its answer") {
    Models models;
    models.base = counting(0);
    models.choices = {kVocab, {12}};
    CounterWorld w(models);
    Job job;
    job.head = named("always");
    job.max_tokens = 3;
    w.add(std::vector<Job>{job});
    w.run();
    REQUIRE_EQ(w.written.at(0).sequence.tokens, (Text{10, 11, 13, 14}));
}
