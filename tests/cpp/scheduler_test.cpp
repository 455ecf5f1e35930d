#include "colm/scheduler.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "colm/engine.h"
#include "colm/error.h"
#include "colm/generation.h"
#include "fake_batch_model.h"
#include "fake_model.h"
#include "reference.h"

using colm::FinishReason;
using colm::HeadInput;
using colm::Interrupt;
using colm::PolicyOptions;
using colm::Router;
using colm::Scheduler;
using colm::Sequence;
using colm::Source;
using colm::Step;
using colm::Strategy;
using colm::StrategyOptions;
using colm::Token;
using colm::Writing;

namespace {

using Function = FakeModel::Function;
using Text = FakeModel::Text;
using Log = std::vector<std::string>;
using HeadPtr = std::shared_ptr<const colm::Head>;

constexpr std::size_t kVocab = 24;
constexpr std::size_t kEmbd = 3;

HeadPtr named(const char* name) { return colm::make_training_free_head(name); }

// Looks at hidden states, and at the distribution.
HeadPtr learned_head() {
    colm::HeadInfo info;
    info.n_embd = kEmbd;
    info.features = {colm::Feature::log_odds, colm::Feature::margin};
    return std::make_shared<colm::LearnedHead>(
        info, std::vector<colm::HeadLayer>{{kEmbd + 2, 1, {0.7f, -0.5f, 0.4f, -0.3f, 0.2f}, {0.1f}}});
}

// A head of a function.
struct TestHead final : colm::Head {
    explicit TestHead(std::function<double(const HeadInput&)> f, bool asks_base = true)
        : function(std::move(f)), base(asks_base) {}
    double defer_logit(const HeadInput& input) const override { return function(input); }
    bool needs_base() const override { return base; }

    std::function<double(const HeadInput&)> function;
    bool base;
};

// Defers the token at these positions (of the text, prompt included) alone.
HeadPtr defer_at(std::set<std::size_t> positions) {
    return std::make_shared<TestHead>([positions = std::move(positions)](const HeadInput& input) {
        return positions.count(input.position) > 0 ? 1.0 : -1.0;
    });
}

// What one text is asked for.
struct Job {
    Text prompt = {10};
    HeadPtr head = named("never");
    int max_tokens = 6;
    PolicyOptions policy = {};
    StrategyOptions strategy = {};
    std::vector<std::string> stop = {};
    Text banned = {};
    std::size_t refused_at = 1000;  // of the tokens written: accepting it fails
    bool draws = false;             // the sampler has a state that moves with each choice
    std::uint32_t seed = 0;
};

// The likeliest token that is not banned, plus chance where the job says so. One that failed must not be
// asked again: llama.cpp would abort.
class TestSampler final : public colm::Sampler {
  public:
    explicit TestSampler(const Job& job)
        : banned_(job.banned), refused_at_(job.refused_at), draws_(job.draws), random_(job.seed) {}

    Token choose(colm::View<const float> logits, const colm::Distribution&, std::size_t) override {
        CHECK(!failed_);
        std::vector<float> values(logits.begin(), logits.end());
        for (float& value : values)
            if (draws_) value += static_cast<float>(random_.between(0.0, 3.0));
        for (const Token token : banned_) values[static_cast<std::size_t>(token)] = -reference::kInf;
        const std::size_t best = reference::argmax(values);
        failed_ = values[best] == -reference::kInf;
        return failed_ ? colm::kNoToken : static_cast<Token>(best);
    }
    std::string why_none() const override { return "every token is banned"; }
    std::unique_ptr<colm::Sampler> snapshot() const override { return std::make_unique<TestSampler>(*this); }
    void accept(Token) override {
        CHECK(!failed_);
        failed_ = n_accepted_++ == refused_at_;
        if (failed_) throw colm::GenerationError("the token is refused");
    }

  private:
    Text banned_;
    std::size_t refused_at_;
    bool draws_;
    reference::Random random_;
    std::size_t n_accepted_ = 0;
    bool failed_ = false;
};

struct Models {
    Function base = random_function(1, kVocab);
    Function assistant = random_function(2, kVocab);
    colm::Choices choices = {kVocab, {}};
};

Function hidden_function() { return random_function(1001, kEmbd); }

Writing make_writing(const Job& job, std::size_t n_ctx) {
    Router router{job.head,
                  colm::Policy(job.policy),
                  colm::Mixer(job.strategy),
                  std::make_unique<TestSampler>(job),
                  job.seed,
                  2};
    return Writing(
        job.prompt, n_ctx, std::move(router), {job.max_tokens, job.stop},
        [](Token token) { return "<" + std::to_string(token) + ">"; },
        [](Token token) { return token == 0; });
}

// What became of a text.
struct Written {
    std::vector<colm::StreamedStep> steps;
    Sequence sequence;
    FinishReason reason = FinishReason::none;
    std::optional<Step> end_step;
    std::string error;
};

// By the engine, which reads one text.
Written write_alone(const Models& models, const Job& job, std::size_t n_ctx) {
    FakeModelOptions options;
    options.n_vocab = kVocab;
    options.n_ctx = n_ctx;
    const auto engine =
        std::make_shared<colm::Engine>(std::make_unique<FakeModel>(options, models.base, hidden_function()),
                                       std::make_unique<FakeModel>(options, models.assistant),
                                       models.choices.n_shared, models.choices.blocked);
    colm::Generation generation(engine, make_writing(job, n_ctx), {});
    Written written;
    try {
        while (auto step = generation.next()) written.steps.push_back(std::move(*step));
    } catch (const colm::Error& error) {
        written.error = error.what();
    }
    written.sequence = generation.sequence();
    written.reason = generation.finish_reason();
    written.end_step = generation.end_step();
    return written;
}

struct Limits {
    std::size_t n_sequences = 3;
    std::size_t n_ctx = 40;  // of each text
    std::size_t base_batch = 64;
    std::size_t assistant_batch = 64;
    std::size_t n_outputs = 3;
};

struct World {
    explicit World(const Models& models, const Limits& limits = {})
        : base(make(limits, limits.base_batch, models.base, hidden_function())),
          assistant(make(limits, limits.assistant_batch, models.assistant, {})),
          scheduler(base, assistant, models.choices) {}

    static std::shared_ptr<FakeBatchModel> make(const Limits& limits, std::size_t n_batch, Function logits,
                                                Function hidden) {
        FakeBatchOptions options;
        options.n_vocab = kVocab;
        options.n_embd = kEmbd;
        options.n_ctx = limits.n_ctx * limits.n_sequences;
        options.n_batch = n_batch;
        options.n_outputs = limits.n_outputs;
        options.n_sequences = limits.n_sequences;
        return std::make_shared<FakeBatchModel>(options, std::move(logits), std::move(hidden));
    }

    void add(const std::vector<Job>& jobs, std::size_t from = 0, std::size_t to = 1000) {
        for (std::size_t i = from; i < std::min(to, jobs.size()); ++i)
            scheduler.add(i, make_writing(jobs[i], scheduler.n_ctx()));
    }

    // The number of the text that ended, if any.
    std::optional<std::size_t> next() {
        Interrupt interrupt;
        std::optional<Scheduler::Finished> finished = scheduler.next(interrupt);
        if (!finished) return std::nullopt;
        CHECK_EQ(written.count(finished->number), 0);
        Written& text = written[finished->number];
        while (!finished->writing.empty()) text.steps.push_back(finished->writing.pop());
        text.sequence = finished->writing.sequence();
        text.reason = finished->writing.finish_reason();
        text.end_step = finished->writing.end_step();
        if (finished->error) {
            try {
                std::rethrow_exception(finished->error);
            } catch (const colm::GenerationError& error) {
                text.error = error.what();
            }
        }
        return finished->number;
    }
    // The numbers of the texts as they end, until there is none.
    std::vector<std::size_t> rest() {
        std::vector<std::size_t> order;
        while (const auto number = next()) order.push_back(*number);
        CHECK(!next());
        CHECK_EQ(scheduler.n_texts(), 0);
        for (std::size_t i = 0; i < scheduler.n_sequences(); ++i)
            CHECK(base->text(i).empty() && assistant->text(i).empty());
        return order;
    }

    std::shared_ptr<FakeBatchModel> base;
    std::shared_ptr<FakeBatchModel> assistant;
    Scheduler scheduler;
    std::map<std::size_t, Written> written;
};

void check_step(const Step& got, const Step& expected) {
    CHECK_EQ(got.token, expected.token);
    CHECK_EQ(got.source, expected.source);
    CHECK_EQ(got.defer_logit, expected.defer_logit);
    CHECK_EQ(got.threshold, expected.threshold);
    CHECK_EQ(got.logprob, expected.logprob);
    CHECK_EQ(got.top_logprobs.size(), expected.top_logprobs.size());
    for (std::size_t k = 0; k < got.top_logprobs.size(); ++k) {
        CHECK_EQ(got.top_logprobs[k].token, expected.top_logprobs[k].token);
        CHECK_EQ(got.top_logprobs[k].logprob, expected.top_logprobs[k].logprob);
    }
}

void check_text(const Written& got, const Written& expected) {
    CHECK_EQ(got.error, expected.error);
    CHECK_EQ(got.reason, expected.reason);
    CHECK_EQ(got.sequence.tokens, expected.sequence.tokens);
    CHECK_EQ(got.sequence.n_prompt, expected.sequence.n_prompt);
    CHECK_EQ(got.sequence.stats.n_deferred, expected.sequence.stats.n_deferred);
    CHECK_EQ(got.steps.size(), expected.steps.size());
    for (std::size_t i = 0; i < got.steps.size(); ++i) {
        check_step(got.steps[i].step, expected.steps[i].step);
        CHECK_EQ(got.steps[i].text, expected.steps[i].text);
    }
    CHECK_EQ(got.end_step.has_value(), expected.end_step.has_value());
    if (got.end_step) check_step(*got.end_step, *expected.end_step);
}

// Counts and decodes of a text that nothing disturbed.
void check_reading(const Written& text, const Written& alone) {
    const Sequence& got = text.sequence;
    const Sequence& expected = alone.sequence;
    CHECK_EQ(got.stats.base_steps, expected.stats.base_steps);
    CHECK_EQ(got.stats.assistant_calls, expected.stats.assistant_calls);
    CHECK_EQ(got.stats.base_tokens_read, expected.stats.base_tokens_read);
    // The assistant may have read along beyond the last token that it was asked for.
    CHECK(got.stats.assistant_tokens_read >= expected.stats.assistant_tokens_read);
    const bool failed = text.reason == FinishReason::failed;  // its last read added no token
    CHECK(got.stats.assistant_tokens_read < got.tokens.size() + (failed ? 1 : 0));
    CHECK_EQ(got.stats.assistant_tokens_read > 0, expected.stats.assistant_tokens_read > 0);
    std::map<Source, std::size_t> n_read;
    for (const colm::DecodeCall& call : got.calls) {
        CHECK_EQ(static_cast<std::size_t>(call.position), n_read[call.model]);
        n_read[call.model] += static_cast<std::size_t>(call.n_tokens);
    }
    CHECK_EQ(n_read[Source::base], got.stats.base_tokens_read);
    CHECK_EQ(n_read[Source::assistant], got.stats.assistant_tokens_read);
}

void check_all(const World& world, const Models& models, const std::vector<Job>& jobs,
               const std::set<std::size_t>& but = {}) {
    CHECK_EQ(world.written.size(), jobs.size());
    for (std::size_t i = 0; i < jobs.size(); ++i)
        if (but.count(i) == 0)
            check_text(world.written.at(i), write_alone(models, jobs[i], world.scheduler.n_ctx()));
}

// Jobs of every head and strategy. No two prompts begin alike, so that nothing is shared between texts.
std::vector<Job> random_jobs(reference::Random& random, std::size_t n) {
    const std::vector<HeadPtr> heads = {named("confidence"),
                                        named("entropy"),
                                        named("random"),
                                        named("always"),
                                        named("never"),
                                        learned_head(),
                                        std::make_shared<colm::TokenHead>(5),
                                        std::make_shared<colm::TokenHead>(kVocab - 1)};
    std::vector<Job> jobs;
    for (std::size_t i = 0; i < n; ++i) {
        Job job;
        job.prompt = {static_cast<Token>(10 + i)};
        for (std::size_t k = random.below(9); k > 0; --k)
            job.prompt.push_back(static_cast<Token>(random.below(kVocab)));
        job.head = heads[random.below(heads.size())];
        job.max_tokens = static_cast<int>(random.below(14)) - 1;
        job.policy.threshold = std::vector<double>{0.0, 0.3, 0.5, 0.7, 0.9, 1.0}[random.below(6)];
        if (random.chance(0.2)) job.policy.target_rate = 0.4;
        if (!job.policy.target_rate && random.chance(0.2)) {
            job.policy.schedule = colm::Schedule::linear;
            job.policy.schedule_tokens = 4;
        }
        job.strategy = {static_cast<Strategy>(random.below(3)), 0.7, 0.2};
        if (random.chance(0.3)) job.stop = {"<7>", "><1"};
        job.draws = random.chance(0.5);
        job.seed = static_cast<std::uint32_t>(i);
        jobs.push_back(job);
    }
    return jobs;
}

// Wants the token that is `step` further on than the last.
Function counting(Token step) {
    return [step](const Text& text) {
        std::vector<float> logits(kVocab, 0.0f);
        logits[static_cast<std::size_t>(text.back() + step) % kVocab] = 9.0f;
        return logits;
    };
}

// The base counts by one, the assistant by two: tokens tell who wrote them.
Models counting_models() { return {counting(1), counting(2), {kVocab, {}}}; }

Log batches(const FakeBatchModel& model) {
    Log all;
    for (const std::string& line : model.log)
        if (line.find('@') != std::string::npos) all.push_back(line);
    return all;
}

// Jobs for tests that disturb them: they defer now and then, and with a part of the base's.
std::vector<Job> some_jobs() {
    std::vector<Job> jobs(5);
    for (std::size_t i = 0; i < jobs.size(); ++i) {
        jobs[i].prompt = {static_cast<Token>(10 + i), 2, static_cast<Token>(i)};
        jobs[i].max_tokens = 3 + static_cast<int>(i);
        jobs[i].seed = static_cast<std::uint32_t>(i);
    }
    jobs[0].head = named("random");
    jobs[1].head = defer_at({4, 6});
    jobs[1].strategy.strategy = Strategy::compose;
    jobs[2].head = named("always");
    jobs[2].max_tokens = 9;
    jobs[3].head = named("random");
    jobs[3].strategy.strategy = Strategy::contrastive;
    return jobs;
}

}  // namespace

TEST(scheduler_writes_what_the_engine_writes) {
    Models models;
    models.choices = {kVocab - 1, {3}};
    reference::Random random(11);
    std::map<FinishReason, int> reasons;
    std::map<Source, int> sources;
    for (int round = 0; round < 60; ++round) {
        Limits limits;
        limits.n_sequences = 1 + random.below(5);
        limits.n_outputs = limits.n_sequences + random.below(2);
        limits.base_batch = limits.n_outputs + random.below(12);
        limits.assistant_batch = limits.n_outputs + random.below(12);
        limits.n_ctx = 12 + random.below(10);
        World w(models, limits);
        const std::vector<Job> jobs = random_jobs(random, 1 + random.below(10));
        // Some come while others are being written.
        const std::size_t n_first = 1 + random.below(jobs.size());
        w.add(jobs, 0, n_first);
        w.next();
        w.add(jobs, n_first);
        w.rest();
        check_all(w, models, jobs);
        for (std::size_t i = 0; i < jobs.size(); ++i) {
            const Written& got = w.written.at(i);
            check_reading(got, write_alone(models, jobs[i], limits.n_ctx));
            ++reasons[got.reason];
            for (const auto& [step, text] : got.steps) {
                ++sources[step.source];
                CHECK(step.token != 3 && step.token != jobs[i].head->defer_token());
                CHECK(step.token < static_cast<Token>(kVocab) - 1);
            }
        }
        CHECK_EQ(w.scheduler.base().n_decodes(), w.base->sizes.size());
        CHECK_EQ(w.scheduler.assistant().n_decodes(), w.assistant->sizes.size());
    }
    for (const auto reason : {FinishReason::eos, FinishReason::stop, FinishReason::length})
        CHECK(reasons[reason] > 5);
    CHECK_EQ(reasons.size(), 3);
    CHECK(sources[Source::base] > 100 && sources[Source::assistant] > 100);
}

TEST(scheduler_texts_share_decodes) {
    World w(counting_models());
    std::vector<Job> jobs(3);
    jobs[0].prompt = {10, 11};
    jobs[1].prompt = {12};
    jobs[2].prompt = {13, 14, 15};
    for (Job& job : jobs) job.max_tokens = 3;
    w.add(jobs);
    CHECK_EQ(w.scheduler.n_texts(), 3);
    CHECK_EQ(w.rest(), (std::vector<std::size_t>{0, 1, 2}));
    CHECK_EQ(batches(*w.base), (Log{"0@0: 10 11* | 1@0: 12* | 2@0: 13 14 15*",
                                    "0@2: 12* | 1@1: 13* | 2@3: 16*", "0@3: 13* | 1@2: 14* | 2@4: 17*"}));
    CHECK_EQ(w.scheduler.n_steps(), 3);
    CHECK_EQ(w.scheduler.base().n_decodes(), 3);
    CHECK_EQ(w.scheduler.assistant().n_decodes(), 0);
    CHECK_EQ(w.written[1].sequence.tokens, (Text{12, 13, 14, 15}));
}

TEST(scheduler_assistant_reads_along) {
    World w(counting_models());
    std::vector<Job> jobs(3);
    jobs[0].prompt = {10, 11};
    jobs[0].head = defer_at({2, 5});  // its first token, and its fourth
    jobs[1].prompt = {1};
    jobs[1].head = defer_at({2});  // its second
    jobs[2].prompt = {20};
    for (Job& job : jobs) job.max_tokens = 4;
    w.add(jobs);
    w.rest();
    CHECK_EQ(w.written[0].sequence.tokens, (Text{10, 11, 13, 14, 15, 17}));
    CHECK_EQ(w.written[1].sequence.tokens, (Text{1, 2, 4, 5, 6}));
    // Whom it was never asked about it does not read; where none is deferred it reads nothing.
    CHECK_EQ(batches(*w.assistant), (Log{"0@0: 10 11*", "0@2: 13 | 1@0: 1 2*", "0@3: 14 15* | 1@2: 4 5"}));
    CHECK_EQ(w.scheduler.n_steps(), 4);
    CHECK_EQ(w.scheduler.base().n_decodes(), 4);
    CHECK_EQ(w.scheduler.assistant().n_decodes(), 3);
    const auto stats = [&](std::size_t i) { return w.written[i].sequence.stats; };
    CHECK_EQ(stats(0).n_deferred, 2);
    CHECK_EQ(stats(0).assistant_calls, 2);
    CHECK_EQ(stats(0).assistant_tokens_read, 5);
    CHECK_EQ(stats(0).base_steps, 4);
    CHECK_EQ(stats(0).base_tokens_read, 5);
    CHECK_EQ(stats(1).n_deferred, 1);
    CHECK_EQ(stats(1).assistant_calls, 1);
    CHECK_EQ(stats(1).assistant_tokens_read, 4);
    CHECK_EQ(stats(2).assistant_tokens_read, 0);
}

TEST(scheduler_asks_only_the_models_that_matter) {
    World w(counting_models());
    std::vector<Job> jobs(3);
    jobs[0].head = named("always");
    jobs[1].prompt = {12};
    jobs[2].prompt = {14};
    jobs[2].head = named("always");
    jobs[2].strategy.strategy = Strategy::compose;  // the base has its part in this one
    for (Job& job : jobs) job.max_tokens = 1;
    w.add(jobs);
    w.rest();
    CHECK_EQ(batches(*w.base), (Log{"0@0: 12* | 1@0: 14*"}));
    CHECK_EQ(batches(*w.assistant), (Log{"0@0: 10* | 1@0: 14*"}));
    CHECK_EQ(w.written[0].sequence.stats.base_steps, 0);
    CHECK_EQ(w.written[1].sequence.stats.assistant_calls, 0);
    CHECK_EQ(w.written[2].sequence.stats.base_steps, 1);
}

TEST(scheduler_reads_hidden_states_where_a_head_looks_at_them) {
    World w(counting_models());
    std::vector<Job> jobs(2);
    jobs[0].prompt = {10, 11};
    jobs[0].head = learned_head();
    jobs[0].max_tokens = 1;
    jobs[1].prompt = {12, 13};
    jobs[1].max_tokens = 2;
    w.add(jobs);
    w.rest();
    CHECK_EQ(batches(*w.base), (Log{"0@0: 10 | 1@0: 12", "0@1: 11* | 1@1: 13* hidden", "1@2: 14*"}));
    for (const std::string& line : batches(*w.assistant)) CHECK_EQ(line.find("hidden"), std::string::npos);
}

TEST(scheduler_fills_places_at_once) {
    Limits limits;
    limits.n_sequences = 2;
    World w(counting_models(), limits);
    std::vector<Job> jobs(4);
    const int n_tokens[] = {1, 3, 2, 1};
    for (std::size_t i = 0; i < jobs.size(); ++i) {
        jobs[i].prompt = {static_cast<Token>(5 * i), static_cast<Token>(5 * i)};
        jobs[i].max_tokens = n_tokens[i];
    }
    w.add(jobs);
    CHECK_EQ(w.scheduler.n_sequences(), 2);
    CHECK_EQ(*w.next(), 0);
    CHECK_EQ(w.scheduler.n_texts(), 3);
    CHECK_EQ(w.scheduler.n_steps(), 1);                       // no further than it has to
    CHECK_EQ(w.rest(), (std::vector<std::size_t>{2, 1, 3}));  // of those that end together, by place
    CHECK_EQ(batches(*w.base),
             (Log{"0@0: 0 0* | 1@0: 5 5*", "0@0: 10 10* | 1@2: 6*", "0@2: 11* | 1@3: 7*", "0@0: 15 15*"}));
    CHECK_EQ(w.scheduler.n_steps(), 4);
}

TEST(scheduler_ends_texts_that_may_have_no_token) {
    Limits limits;
    limits.n_sequences = 2;
    limits.n_ctx = 4;
    std::vector<Job> jobs(5);
    for (Job& job : jobs) job.max_tokens = 0;
    jobs[3].prompt = {1, 2, 3, 4};  // fills the context
    jobs[3].max_tokens = -1;
    World w(counting_models(), limits);
    w.add(jobs);
    CHECK_EQ(w.rest(), (std::vector<std::size_t>{0, 1, 2, 3, 4}));
    for (const auto& [number, text] : w.written) {
        CHECK_EQ(text.reason, FinishReason::length);
        CHECK_EQ(text.error, "");
        CHECK(text.steps.empty());
    }
    CHECK(w.base->batches.empty());
    CHECK_EQ(w.scheduler.n_steps(), 0);

    // They take no place from others.
    jobs[2].max_tokens = 1;
    jobs[4].max_tokens = 1;
    World mixed(counting_models(), limits);
    mixed.add(jobs);
    CHECK_EQ(mixed.rest(), (std::vector<std::size_t>{0, 1, 3, 2, 4}));
    CHECK_EQ(mixed.scheduler.n_steps(), 1);
}

TEST(scheduler_without_texts) {
    World w(counting_models());
    CHECK(!w.next());
    w.add({Job{}});
    CHECK_EQ(w.rest(), (std::vector<std::size_t>{0}));  // and more may come afterwards
    CHECK_EQ(w.written[0].sequence.n_generated(), 6);
}

TEST(scheduler_context_is_the_smaller) {
    for (const bool in_base : {false, true}) {
        const Models models = counting_models();
        Limits small;
        small.n_ctx = 7;
        const auto less = World::make(small, 8, models.base, {});
        const auto more = World::make(Limits{}, 8, models.base, {});
        CHECK_EQ(Scheduler(in_base ? less : more, in_base ? more : less, models.choices).n_ctx(), 7);
    }
}

TEST(scheduler_text_fails_alone) {
    // Text 1 fails at its third token, in every way that a text may fail of its own.
    const Text banned = [] {
        Text all;
        for (std::size_t i = 0; i < kVocab; ++i) all.push_back(static_cast<Token>(i));
        return all;
    }();
    struct Failure {
        const char* message;
        std::function<void(Job&, Models&)> prepare;
    };
    const auto after_two = [](Function function) {
        return [function = std::move(function)](const Text& text) {
            std::vector<float> logits = function(text);
            if (text[0] == 11 && text.size() == 5) logits[2] = reference::kNan;
            return logits;
        };
    };
    const auto nan_at_third = [](const HeadInput& input) {
        return input.position == 5 ? reference::kNanD : 1.0;
    };
    const std::vector<Failure> failures = {
        {"every token is banned", [&](Job& job, Models&) { job.banned = banned; }},
        {"every token is banned",
         [&](Job& job, Models&) {
             job.banned = banned;
             job.head = named("always");
         }},
        {"a logit of nan", [&](Job&, Models& models) { models.base = after_two(models.base); }},
        {"a logit of nan",
         [&](Job& job, Models& models) {
             job.head = named("always");
             models.assistant = after_two(models.assistant);
         }},
        {"deferral logit is NaN",
         [&](Job& job, Models&) { job.head = std::make_shared<TestHead>(nan_at_third); }},
        {"deferral logit is NaN",
         [&](Job& job, Models&) { job.head = std::make_shared<TestHead>(nan_at_third, false); }},
        {"the token is refused", [](Job& job, Models&) { job.refused_at = 2; }},
    };
    for (const Failure& failure : failures) {
        const Models whole;
        Models models = whole;
        std::vector<Job> jobs = some_jobs();
        jobs[1].head = named("never");
        failure.prepare(jobs[1], models);
        World w(models);
        w.add(jobs);
        w.rest();
        check_all(w, whole, jobs, {1});
        const Written& failed = w.written.at(1);
        CHECK(failed.error.find(failure.message) != std::string::npos);
        CHECK_EQ(failed.reason, FinishReason::failed);
        // What it wrote before stays, as it does alone.
        const Written alone = write_alone(models, jobs[1], w.scheduler.n_ctx());
        check_text(failed, alone);
        check_reading(failed, alone);
    }
}

TEST(scheduler_failed_decode_fails_those_that_took_part) {
    const Models models;
    const std::vector<Job> jobs = some_jobs();
    World undisturbed(models);
    undisturbed.add(jobs);
    undisturbed.rest();
    for (const bool in_assistant : {false, true}) {
        const std::size_t n_evals = (in_assistant ? undisturbed.assistant : undisturbed.base)->batches.size();
        CHECK(n_evals > 5);
        for (std::size_t at = 0; at < n_evals; ++at) {
            World w(models);
            w.add(jobs);
            FakeBatchModel& model = in_assistant ? *w.assistant : *w.base;
            std::set<std::size_t> failed;
            model.on_eval = [&](std::size_t i, Interrupt&) {
                if (i != at) return;
                // Prompts begin with the text's number.
                for (const colm::Slot& slot : model.batches.back()) {
                    const Text& held = model.text(slot.sequence);
                    if (!held.empty() || slot.position == 0)
                        failed.insert(static_cast<std::size_t>(held.empty() ? slot.token : held[0]) - 10);
                }
                throw colm::GenerationError("decode failed");
            };
            w.rest();
            CHECK(!failed.empty());
            for (const std::size_t i : failed) {
                const Written& got = w.written.at(i);
                CHECK_EQ(got.error, "decode failed");
                CHECK_EQ(got.reason, FinishReason::failed);
                const Text& tokens = got.sequence.tokens;
                const Text& all = undisturbed.written.at(i).sequence.tokens;
                CHECK(tokens.size() < all.size() && std::equal(tokens.begin(), tokens.end(), all.begin()));
                CHECK_EQ(got.steps.size(), got.sequence.n_generated());
            }
            check_all(w, models, jobs, failed);
        }
    }
}

namespace {

// Cancels the decodes one after another, each in a run of its own, and goes on.
void check_cancelled(bool in_assistant) {
    const Models models;
    std::vector<Job> jobs = some_jobs();
    for (Job& job : jobs) job.draws = true;
    for (std::size_t at = 0;; ++at) {
        World w(models);
        w.add(jobs);
        bool cancelled = false;
        (in_assistant ? w.assistant : w.base)->on_eval = [&](std::size_t i, Interrupt&) {
            if (i != at) return;
            cancelled = true;
            throw colm::Cancelled();
        };
        int n_thrown = 0;
        while (w.written.size() < jobs.size()) {
            try {
                w.next();
            } catch (const colm::Cancelled&) {
                ++n_thrown;
                CHECK_EQ(w.scheduler.n_texts(), jobs.size() - w.written.size());
            }
        }
        w.rest();
        CHECK_EQ(n_thrown, cancelled ? 1 : 0);
        check_all(w, models, jobs);
        if (!cancelled) {
            CHECK(at > 5);
            return;
        }
    }
}

}  // namespace

TEST(scheduler_goes_on_after_a_cancelled_read_of_the_base) { check_cancelled(false); }

TEST(scheduler_goes_on_after_a_cancelled_read_of_the_assistant) { check_cancelled(true); }

TEST(scheduler_cancelled_while_a_text_fails) {
    // Text 0 has failed by the time that the assistant's read is cancelled. It is not asked again, and ends
    // in the error that it had. Text 1 fails only when the step is made anew.
    const Models models;
    std::vector<Job> jobs(3);
    int n_asked = 0;
    jobs[0].head = std::make_shared<TestHead>([&](const HeadInput&) {
        ++n_asked;
        return reference::kNanD;
    });
    jobs[1].prompt = {11};
    for (std::size_t i = 0; i < kVocab; ++i) jobs[1].banned.push_back(static_cast<Token>(i));
    jobs[2].prompt = {12};
    jobs[2].head = named("always");
    World w(models);
    w.add(jobs);
    w.assistant->on_eval = [](std::size_t i, Interrupt&) {
        if (i == 0) throw colm::Cancelled();
    };
    CHECK_THROWS(colm::Cancelled, w.next(), "");
    w.rest();
    CHECK_EQ(n_asked, 1);
    CHECK_EQ(w.written.at(1).error, "every token is banned");
    check_all(w, models, jobs);
}

TEST(scheduler_stops_when_asked_to) {
    const Models models;
    const std::vector<Job> jobs = some_jobs();
    World w(models);
    w.add(jobs);
    Interrupt stop;
    stop.request();
    for (int i = 0; i < 2; ++i) CHECK_THROWS(colm::Cancelled, w.scheduler.next(stop), "");
    CHECK(w.base->batches.empty());
    CHECK_EQ(w.scheduler.n_steps(), 0);
    w.rest();
    check_all(w, models, jobs);
    // What has ended is handed out all the same: it takes no computing.
    Job empty;
    empty.max_tokens = 0;
    w.scheduler.add(7, make_writing(empty, w.scheduler.n_ctx()));
    CHECK_EQ(w.scheduler.next(stop)->number, 7);
}

TEST(scheduler_never_chooses_what_stands_for_no_token) {
    // Both models want a token that is blocked, then one beyond those shared, then the deferral token.
    const auto logits = [](const Text&) {
        std::vector<float> values(kVocab, 0.0f);
        values[4] = 30.0f;
        values[kVocab - 1] = 20.0f;
        values[6] = 10.0f;
        values[9] = 5.0f;
        return values;
    };
    const Models models = {logits, logits, {kVocab - 1, {4}}};
    for (const auto strategy : {Strategy::defer, Strategy::compose, Strategy::contrastive}) {
        for (const double threshold : {0.0, 1.0}) {
            std::vector<Job> jobs(3);
            for (std::size_t i = 0; i < jobs.size(); ++i) {
                jobs[i].max_tokens = 2;
                jobs[i].policy.threshold = threshold;
                jobs[i].strategy = {strategy, 0.5, 0.1};
                jobs[i].head = std::make_shared<colm::TokenHead>(6);
            }
            jobs[1].head = named("confidence");  // of this text the token is none but a token
            World w(models);
            w.add(jobs);
            w.rest();
            CHECK_EQ(w.written[0].sequence.tokens, (Text{10, 9, 9}));
            CHECK_EQ(w.written[1].sequence.tokens, (Text{10, 6, 6}));
            CHECK_EQ(w.written[2].sequence.tokens, (Text{10, 9, 9}));
            for (const auto& [step, text] : w.written[0].steps)
                for (const auto& [token, logprob] : step.top_logprobs) CHECK(token != 4 && token != 6);
        }
    }
}

TEST(scheduler_times_texts_from_their_first_step) {
    World w(counting_models());
    std::vector<Job> jobs(2);
    jobs[1].prompt = {12};
    jobs[1].max_tokens = 1;
    w.add(jobs, 0, 1);
    w.base->on_eval = [](std::size_t i, Interrupt&) {
        if (i == 0) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    };
    w.rest();
    w.add(jobs, 1);
    w.rest();
    CHECK(w.written[0].sequence.stats.decode_s >= 0.02);
    CHECK(w.written[1].sequence.stats.decode_s > 0.0);
    CHECK_EQ(w.written[0].sequence.stats.prefill_s, 0.0);
}
