// Texts, what is asked of them, what becomes of them alone by the plainest code, and a loop over fake models
// that writes them.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "colm/error.h"
#include "colm/local_expert.h"
#include "colm/loop.h"
#include "colm/random.h"
#include "fake_model.h"
#include "reference.h"

inline constexpr std::size_t kVocab = 24;
inline constexpr std::size_t kEmbd = 3;
inline constexpr colm::Token kEnd = 0;

using HeadPtr = std::shared_ptr<const colm::Head>;

inline HeadPtr named(const std::string& name) { return colm::make_training_free_head(name); }

// Looks at hidden states, and at the distribution.
inline HeadPtr learned_head() {
    colm::HeadInfo info;
    info.n_embd = kEmbd;
    info.features = {colm::Feature::log_odds, colm::Feature::margin};
    return std::make_shared<colm::LearnedHead>(
        info, std::vector<colm::HeadLayer>{{kEmbd + 2, 1, {0.7f, -0.5f, 0.4f, -0.3f, 0.2f}, {0.1f}}});
}

// A head of a function.
struct TestHead final : colm::Head {
    explicit TestHead(std::function<double(const colm::HeadInput&)> f, bool asks_base = true)
        : function(std::move(f)), base(asks_base) {}
    double defer_logit(const colm::HeadInput& input) const override { return function(input); }
    bool needs_base() const override { return base; }

    std::function<double(const colm::HeadInput&)> function;
    bool base;
};

// What one text is asked for.
struct Job {
    FakeModel::Text prompt = {10};
    HeadPtr head = named("never");
    int max_tokens = 6;
    colm::PolicyOptions policy = {};
    colm::StrategyOptions strategy = {};
    colm::ProxyPair proxy = {};
    std::vector<std::string> stop = {};
    FakeModel::Text banned = {};
    std::size_t refused_at = 1000;  // of the tokens written: accepting it fails
    bool draws = false;             // with noise of seed, position and token
    bool constrained = false;       // no token three times in a row, which asks for the tokens accepted
    std::uint32_t seed = 0;
    int lookahead = 0;
    colm::Writing::OwnPrompts own_prompts = {};
};

class TestSampler final : public colm::Sampler {
  public:
    explicit TestSampler(const Job& job)
        : banned_(job.banned),
          refused_at_(job.refused_at),
          draws_(job.draws),
          constrained_(job.constrained),
          seed_(job.seed) {}

    colm::Token choose(colm::View<const float> logits, const colm::Distribution& distribution,
                       std::size_t position) override {
        if (!draws_ && !constrained_ && banned_.empty()) return distribution.top;
        std::vector<float> values(logits.begin(), logits.end());
        for (std::size_t i = 0; draws_ && i < values.size(); ++i) {
            const double u =
                colm::uniform(colm::splitmix64((std::uint64_t{seed_} << 32) ^ (position * 64 + i)));
            values[i] -= static_cast<float>(std::log(-std::log(u)));
        }
        const std::size_t n = accepted_.size();
        if (constrained_ && n >= 2 && accepted_[n - 1] == accepted_[n - 2])
            values[static_cast<std::size_t>(accepted_[n - 1])] = -reference::kInf;
        for (const colm::Token token : banned_) values[static_cast<std::size_t>(token)] = -reference::kInf;
        const std::size_t best = reference::argmax(values);
        return values[best] == -reference::kInf ? colm::kNoToken : static_cast<colm::Token>(best);
    }
    std::string why_none() const override { return "every token is banned"; }
    std::unique_ptr<colm::Sampler> snapshot() const override {
        return constrained_ || refused_at_ < 1000 ? std::make_unique<TestSampler>(*this) : nullptr;
    }
    void accept(colm::Token token) override {
        accepted_.push_back(token);
        if (accepted_.size() > refused_at_) throw colm::GenerationError("the token is refused");
    }

  private:
    FakeModel::Text banned_;
    std::size_t refused_at_;
    bool draws_;
    bool constrained_;
    std::uint32_t seed_;
    FakeModel::Text accepted_;
};

struct Models {
    FakeModel::Function base = random_function(1, kVocab);
    FakeModel::Function assistant = random_function(2, kVocab);
    colm::Choices choices = {kVocab, {}};
    FakeModel::Function hidden = random_function(1001, kEmbd);
    std::vector<FakeModel::Function> more = {};  // experts 2 to K
};

inline colm::Writing make_writing(const Job& job, std::size_t n_ctx) {
    colm::Deciders deciders{job.head,
                            colm::Policy(job.policy),
                            colm::Mixer(job.strategy, job.proxy),
                            std::make_unique<TestSampler>(job),
                            job.seed,
                            2};
    return colm::Writing(
        job.prompt, n_ctx, std::move(deciders), {job.max_tokens, job.stop},
        [](const colm::Step& step) { return "<" + std::to_string(step.token) + ">"; },
        [](const colm::Step& step) { return step.token == kEnd; }, job.own_prompts);
}

// What became of a text.
struct Written {
    std::vector<colm::StreamedStep> steps;
    colm::Sequence sequence;
    colm::FinishReason reason = colm::FinishReason::none;
    std::optional<colm::Step> end_step;
    std::string error;
};

// The method with nothing beside it: every model reads the whole text at every position.
inline Written write_alone(const Models& models, const Job& job, std::size_t n_ctx) {
    colm::Writing writing = make_writing(job, n_ctx);
    Written written;
    const auto predict = [&](colm::ExpertId expert, colm::Prediction& prediction) {
        const FakeModel::Function& function = expert == colm::kBase ? models.base
                                              : expert == 1         ? models.assistant
                                                                    : models.more[expert - 2U];
        const colm::Sequence& sequence = writing.sequence();
        FakeModel::Text tokens = job.prompt;
        if (const auto own = job.own_prompts.find(expert); own != job.own_prompts.end()) tokens = own->second;
        tokens.insert(tokens.end(), sequence.tokens.begin() + static_cast<std::ptrdiff_t>(sequence.n_prompt),
                      sequence.tokens.end());
        std::vector<float> logits = function(tokens);
        const colm::Token head = job.head->defer_token();
        if (head != colm::kNoToken) prediction.probe_logit = logits[static_cast<std::size_t>(head)];
        for (const colm::Token token : models.choices.blocked)
            logits[static_cast<std::size_t>(token)] = -reference::kInf;
        if (head != colm::kNoToken) logits[static_cast<std::size_t>(head)] = -reference::kInf;
        logits.resize(models.choices.n_shared);
        return logits;
    };
    try {
        for (writing.end_if_full(); !writing.finished(); writing.end_if_full()) {
            colm::Sequence& sequence = writing.sequence();
            colm::Decision decision(sequence, writing.deciders(), models.choices);
            colm::Prediction of_base;
            std::vector<float> base;
            const std::vector<float> hidden = models.hidden(sequence.tokens);
            if (decision.needs_base()) {
                base = predict(colm::kBase, of_base);
                of_base.logits = {base.data(), base.size()};
                of_base.hidden = hidden.data();
                decision.hear_base(of_base);
                ++sequence.stats.of(colm::kBase).calls;
            }
            colm::Step step;
            std::optional<colm::Step> heard;
            for (colm::ExpertId expert = 1; expert <= 1 + models.more.size(); ++expert) {
                if (!decision.defers() || !decision.needs(expert)) continue;
                colm::Prediction of_expert;
                const std::vector<float> logits = predict(expert, of_expert);
                of_expert.logits = {logits.data(), logits.size()};
                heard = decision.hear(expert, of_expert);
                ++sequence.stats.of(expert).calls;
            }
            step = heard ? *heard : decision.choose();
            append(step, sequence, writing.deciders());
            ++sequence.stats.of(step.expert).tokens;
            writing.take(std::move(step));
        }
    } catch (const colm::Error& error) {
        written.error = error.what();
        writing.finish(colm::FinishReason::failed);
    }
    while (!writing.empty()) written.steps.push_back(writing.pop());
    written.sequence = writing.sequence();
    written.reason = writing.finish_reason();
    written.end_step = writing.end_step();
    return written;
}

struct Limits {
    std::size_t n_slots = 3;
    std::size_t n_ctx = 40;  // of each text
    std::size_t base_batch = 64;
    std::size_t assistant_batch = 64;
    std::size_t n_outputs = 48;  // of the assistant
    std::size_t cache_bytes = 0;
    std::size_t checkpoint_bytes = 0;  // of each model
    bool can_rewind = true;
};

struct World {
    explicit World(const Models& models, const Limits& limits = {}, const std::function<double()>& now = {})
        : base(make(limits, limits.base_batch, std::max(limits.n_slots, limits.base_batch), models.base,
                    models.hidden)),
          assistant(make(limits, limits.assistant_batch, limits.n_outputs, models.assistant, {})) {
        all = {base, assistant};
        for (const FakeModel::Function& function : models.more)
            all.push_back(make(limits, limits.assistant_batch, limits.n_outputs, function, {}));
        colm::Loop::Experts experts;
        for (const auto& model : all)
            experts.push_back(
                std::make_unique<colm::LocalExpert>(model, static_cast<colm::ExpertId>(experts.size()),
                                                    models.choices.n_shared, limits.checkpoint_bytes));
        loop = now ? std::make_unique<colm::Loop>(std::move(experts), models.choices, limits.cache_bytes, now)
                   : std::make_unique<colm::Loop>(std::move(experts), models.choices, limits.cache_bytes);
    }

    static std::shared_ptr<FakeModel> make(const Limits& limits, std::size_t n_batch, std::size_t n_outputs,
                                           FakeModel::Function logits, FakeModel::Function hidden) {
        FakeModelOptions options;
        options.n_vocab = kVocab;
        options.n_embd = kEmbd;
        options.n_ctx = limits.n_ctx * limits.n_slots;
        options.n_batch = n_batch;
        options.n_outputs = std::min(n_outputs, n_batch);
        options.n_sequences = limits.n_slots;
        options.can_rewind = limits.can_rewind;
        return std::make_shared<FakeModel>(options, std::move(logits), std::move(hidden));
    }

    void add(const std::vector<Job>& jobs, std::size_t from = 0, std::size_t to = 1000) {
        for (std::size_t i = from; i < std::min(to, jobs.size()); ++i) {
            texts.push_back(loop->add(make_writing(jobs[i], loop->n_ctx()), jobs[i].lookahead));
            loop->want(texts.back());
        }
    }

    void cancel(std::size_t i) {
        if (loop->cancel(*texts[i])) note_end(*texts[i]);
    }
    void note_end(const colm::Text& ended_text) {
        Written& text = written[ended_text.id()];
        ended.push_back(ended_text.id());
        text.reason = ended_text.finish_reason();
        text.sequence = ended_text.sequence();
        text.end_step = ended_text.end_step();
        try {
            if (ended_text.error()) std::rethrow_exception(ended_text.error());
        } catch (const colm::Error& error) {
            text.error = error.what();
        }
    }

    // Makes a step, and notes its events. Whether something happened.
    bool step() {
        std::vector<colm::Event> events = loop->step(interrupt);
        for (colm::Event& event : events) {
            Written& text = written[event.text->id()];
            REQUIRE_EQ(text.reason, colm::FinishReason::none);
            if (event.step) {
                text.steps.push_back(std::move(*event.step));
                continue;
            }
            note_end(*event.text);
        }
        return !events.empty() || !loop->idle();
    }
    void run() {
        while (step()) {
        }
        REQUIRE_EQ(ended.size(), texts.size());
    }

    std::shared_ptr<FakeModel> base;
    std::shared_ptr<FakeModel> assistant;
    std::vector<std::shared_ptr<FakeModel>> all;  // by expert
    std::unique_ptr<colm::Loop> loop;
    colm::Interrupt interrupt;
    std::vector<std::shared_ptr<colm::Text>> texts;
    std::map<std::size_t, Written> written;
    std::vector<std::size_t> ended;  // in this order
};

inline void check_step(const colm::Step& got, const colm::Step& expected) {
    REQUIRE_EQ(got.token, expected.token);
    REQUIRE_EQ(got.expert, expected.expert);
    REQUIRE_EQ(std::isnan(got.defer_logit), std::isnan(expected.defer_logit));
    if (!std::isnan(got.defer_logit)) REQUIRE_EQ(got.defer_logit, expected.defer_logit);
    REQUIRE_EQ(got.threshold, expected.threshold);
    REQUIRE_EQ(got.logprob, expected.logprob);
    REQUIRE_EQ(got.top_logprobs.size(), expected.top_logprobs.size());
    for (std::size_t k = 0; k < got.top_logprobs.size(); ++k) {
        REQUIRE_EQ(got.top_logprobs[k].token, expected.top_logprobs[k].token);
        REQUIRE_EQ(got.top_logprobs[k].logprob, expected.top_logprobs[k].logprob);
    }
}

inline void check_text(const Written& got, const Written& expected) {
    REQUIRE_EQ(got.error, expected.error);
    REQUIRE_EQ(got.reason, expected.reason);
    REQUIRE_EQ(got.sequence.tokens, expected.sequence.tokens);
    REQUIRE_EQ(got.sequence.n_prompt, expected.sequence.n_prompt);
    REQUIRE_EQ(got.sequence.stats.n_deferred, expected.sequence.stats.n_deferred);
    for (colm::ExpertId expert = 0; got.error.empty() && expert <= colm::kMostExperts; ++expert)
        REQUIRE_EQ(got.sequence.stats.of(expert).tokens, expected.sequence.stats.of(expert).tokens);
    REQUIRE_EQ(got.steps.size(), expected.steps.size());
    for (std::size_t i = 0; i < got.steps.size(); ++i) {
        check_step(got.steps[i].step, expected.steps[i].step);
        REQUIRE_EQ(got.steps[i].text, expected.steps[i].text);
    }
    REQUIRE_EQ(got.end_step.has_value(), expected.end_step.has_value());
    if (got.end_step) check_step(*got.end_step, *expected.end_step);
}

// Jobs of every head and strategy, in texts that begin differently.
inline std::vector<Job> random_jobs(reference::Random& random, std::size_t n) {
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
        job.prompt = {static_cast<colm::Token>(10 + i % 10)};
        for (std::size_t k = random.below(9); k > 0; --k)
            job.prompt.push_back(static_cast<colm::Token>(random.below(kVocab)));
        job.head = heads[random.below(heads.size())];
        job.max_tokens = static_cast<int>(random.below(30)) - 1;
        job.policy.threshold = std::vector<double>{0.0, 0.3, 0.5, 0.7, 0.9, 1.0}[random.below(6)];
        if (random.chance(0.2)) job.policy.target_rate = 0.4;
        if (!job.policy.target_rate && random.chance(0.2)) {
            job.policy.schedule = colm::Schedule::linear;
            job.policy.schedule_tokens = 4;
        }
        if (random.chance(0.3)) job.policy.hold = 2 + static_cast<int>(random.below(4));
        if (random.chance(0.2)) job.policy.leave_threshold = random.between(0.0, 1.0);
        job.strategy = {static_cast<colm::Strategy>(random.below(4)), 0.7, 0.2};
        if (random.chance(0.3)) job.stop = {"<7>", "><1"};
        job.draws = random.chance(0.5);
        job.constrained = random.chance(0.4);
        if (random.chance(0.1)) job.refused_at = random.below(12);
        job.seed = static_cast<std::uint32_t>(i);
        const int lookaheads[] = {0, 1, 3, colm::kMostLookahead, colm::kAutoLookahead};
        job.lookahead = lookaheads[random.below(5)];
        jobs.push_back(job);
    }
    return jobs;
}
