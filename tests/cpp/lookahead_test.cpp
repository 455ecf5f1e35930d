#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "colm/draft.h"
#include "colm/engine.h"
#include "colm/error.h"
#include "colm/random.h"
#include "fake_model.h"
#include "reference.h"

using colm::Cancelled;
using colm::Draft;
using colm::Engine;
using colm::GenerationError;
using colm::Interrupt;
using colm::kAutoLookahead;
using colm::Policy;
using colm::PolicyOptions;
using colm::Router;
using colm::Sequence;
using colm::Source;
using colm::Step;
using colm::Strategy;
using colm::StrategyOptions;
using colm::Token;

namespace {

using Text = FakeModel::Text;
using Function = FakeModel::Function;
using Log = std::vector<std::string>;

constexpr std::size_t kVocab = 8;
constexpr Token kEnd = 0;

// `function` and, as far as `share` goes, another one: the two agree on most texts where it is small.
Function nearly(Function function, std::uint32_t seed, double share) {
    const Function other = random_function(seed, kVocab);
    return [=](const Text& text) {
        std::vector<float> values = function(text);
        const std::vector<float> others = other(text);
        for (std::size_t i = 0; i < values.size(); ++i) values[i] += static_cast<float>(share) * others[i];
        return values;
    };
}

// Noise of seed, position and token, as llama.cpp's sampler draws here; no token three times in a row, which
// asks for the tokens accepted; and from `refuses` tokens on none at all.
class TestSampler final : public colm::Sampler {
  public:
    TestSampler(std::uint32_t seed, bool draws, bool constrained, std::size_t refuses)
        : seed_(seed), draws_(draws), constrained_(constrained), refuses_(refuses) {}

    Token choose(colm::View<const float> logits, const colm::Distribution& distribution,
                 std::size_t position) override {
        if (!draws_ && !constrained_) return distribution.top;
        if (accepted_.size() >= refuses_) return colm::kNoToken;
        std::vector<float> values(logits.begin(), logits.end());
        for (std::size_t i = 0; i < values.size(); ++i) {
            const double u =
                colm::uniform(colm::splitmix64((std::uint64_t{seed_} << 32) ^ (position * 64 + i)));
            if (draws_) values[i] -= static_cast<float>(std::log(-std::log(u)));
        }
        const std::size_t n = accepted_.size();
        if (constrained_ && n >= 2 && accepted_[n - 1] == accepted_[n - 2])
            values[static_cast<std::size_t>(accepted_[n - 1])] = -reference::kInf;
        return static_cast<Token>(reference::argmax(values));
    }
    std::string why_none() const override { return "no token is left"; }
    void accept(Token token) override { accepted_.push_back(token); }
    std::unique_ptr<Sampler> snapshot() const override {
        return constrained_ ? std::make_unique<TestSampler>(*this) : nullptr;
    }

  private:
    std::uint32_t seed_;
    bool draws_;
    bool constrained_;
    std::size_t refuses_;
    Text accepted_;
};

struct Case {
    std::uint32_t seed = 1;
    double share = 1.0;  // how far the models are apart
    std::string head = "confidence";
    PolicyOptions policy = {};
    StrategyOptions strategy = {};
    bool draws = false;
    bool constrained = false;
    std::size_t refuses = static_cast<std::size_t>(-1);
    FakeModelOptions options = {};
    std::size_t limit = 40;
    bool ends = true;
};

struct World {
    explicit World(const Case& c) {
        const Function function = random_function(c.seed, kVocab);
        auto base_model = std::make_unique<FakeModel>(c.options, function, random_function(c.seed + 1000, 3));
        auto assistant_model = std::make_unique<FakeModel>(c.options, nearly(function, c.seed + 7, c.share));
        base = base_model.get();
        assistant = assistant_model.get();
        engine = std::make_unique<Engine>(std::move(base_model), std::move(assistant_model), kVocab);
        router = std::make_unique<Router>(
            Router{colm::make_training_free_head(c.head), Policy(c.policy), colm::Mixer(c.strategy),
                   std::make_unique<TestSampler>(c.seed, c.draws, c.constrained, c.refuses), c.seed, 2});
        sequence.tokens = {1, 2, 3};
        sequence.n_prompt = 3;
        limit = c.limit;
        ends = c.ends;
    }

    bool done() const {
        return sequence.tokens.size() >= limit ||
               (ends && sequence.n_generated() > 0 && sequence.tokens.back() == kEnd);
    }

    // To the end of the text; the error that ended it is kept.
    std::vector<Step> write(std::optional<int> lookahead) {
        std::optional<Draft> draft;
        if (lookahead)
            draft.emplace(sequence, *lookahead, limit, [this](Token token) { return ends && token == kEnd; });
        std::vector<Step> steps;
        try {
            while (!done())
                steps.push_back(draft ? engine->step(sequence, *router, *draft, interrupt)
                                      : engine->step(sequence, *router, interrupt));
        } catch (const GenerationError& e) {
            error = e.what();
        }
        return steps;
    }

    FakeModel* base;
    FakeModel* assistant;
    std::unique_ptr<Engine> engine;
    std::unique_ptr<Router> router;
    Sequence sequence;
    Interrupt interrupt;
    std::size_t limit = 0;
    bool ends = true;
    std::string error;
};

void check_same(const std::vector<Step>& got, const std::vector<Step>& expected) {
    CHECK_EQ(got.size(), expected.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
        CHECK_EQ(got[i].token, expected[i].token);
        CHECK_EQ(got[i].source, expected[i].source);
        CHECK_EQ(got[i].defer_logit, expected[i].defer_logit);
        CHECK_EQ(got[i].threshold, expected[i].threshold);
        CHECK_EQ(got[i].logprob, expected[i].logprob);
        CHECK_EQ(got[i].top_logprobs.size(), expected[i].top_logprobs.size());
        for (std::size_t k = 0; k < got[i].top_logprobs.size(); ++k)
            CHECK_EQ(got[i].top_logprobs[k].token, expected[i].top_logprobs[k].token);
    }
}

Case random_case(std::uint32_t seed) {
    reference::Random random(seed);
    Case c;
    c.seed = seed;
    c.share = random.between(0.0, 1.0);
    const std::vector<std::string> heads = {"confidence", "confidence", "entropy", "random", "always"};
    c.head = heads[random.below(heads.size())];
    const double thresholds[] = {0.0, 0.2, 0.5, 0.7, 1.0};
    c.policy.threshold = thresholds[random.below(5)];
    if (random.chance(0.3)) {
        c.policy.schedule = colm::Schedule::linear;
        c.policy.schedule_tokens = 12;
    } else if (random.chance(0.4)) {
        c.policy.threshold = 0.5;
        c.policy.target_rate = 0.4;
    }
    const Strategy strategies[] = {Strategy::defer, Strategy::defer, Strategy::compose,
                                   Strategy::contrastive};
    c.strategy.strategy = strategies[random.below(4)];
    c.draws = random.chance(0.5);
    c.constrained = random.chance(0.5);
    if (c.constrained && random.chance(0.2)) c.refuses = 5 + random.below(20);
    c.ends = random.chance(0.7);
    c.limit = 4 + random.below(50);
    c.options.n_batch = 2 + random.below(15);
    c.options.n_outputs = 2 + random.below(15);
    return c;
}

}  // namespace

TEST(lookahead_writes_what_the_plain_path_writes) {
    std::size_t n_drafted = 0;
    std::size_t n_rejected = 0;
    std::size_t n_errors = 0;
    for (std::uint32_t seed = 1; seed <= 600; ++seed) {
        const Case c = random_case(seed);
        World plain(c);
        const std::vector<Step> expected = plain.write(std::nullopt);
        for (const int lookahead : {0, 1, 3, colm::kMostLookahead, kAutoLookahead}) {
            World w(c);
            check_same(w.write(lookahead), expected);
            CHECK_EQ(w.sequence.tokens, plain.sequence.tokens);
            CHECK_EQ(w.sequence.stats.n_deferred, plain.sequence.stats.n_deferred);
            CHECK_EQ(w.error, plain.error);
            n_drafted += w.sequence.stats.n_drafted;
            n_rejected += w.sequence.stats.n_drafted - w.sequence.stats.n_accepted;
            n_errors += w.error.empty() ? 0 : 1;
            if (lookahead == 0) CHECK_EQ(w.base->log, plain.base->log);
            if (lookahead == 0) CHECK_EQ(w.assistant->log, plain.assistant->log);
        }
    }
    CHECK(n_drafted > 10000);
    CHECK(n_rejected > 1000);
    CHECK(n_errors > 50);
}

TEST(lookahead_asks_the_assistant_once_for_many) {
    Case c;
    c.share = 0.0;  // every draft token is accepted
    c.policy.threshold = 0.0;
    c.ends = false;
    c.limit = 3 + 12;
    World w(c);
    const std::vector<Step> steps = w.write(4);
    CHECK_EQ(steps.size(), 12);
    CHECK(
        std::all_of(steps.begin(), steps.end(), [](const Step& s) { return s.source == Source::assistant; }));
    CHECK_EQ(w.sequence.stats.n_drafted, 12);
    CHECK_EQ(w.sequence.stats.n_accepted, 12);
    CHECK_EQ(w.sequence.stats.assistant_calls, 3);
    const Text& t = w.sequence.tokens;
    const auto read = [&](std::ptrdiff_t from, std::ptrdiff_t to, const char* at) {
        return "eval " + std::to_string(from) + " " + check::show(Text(t.begin() + from, t.begin() + to)) +
               " logits at " + at;
    };
    // Nobody asks what follows the last draft token of a call: it is read with the next call.
    CHECK_EQ(w.assistant->log,
             (Log{read(0, 6, "[2, 3, 4, 5]"), read(6, 10, "[0, 1, 2, 3]"), read(10, 14, "[0, 1, 2, 3]")}));
    CHECK_EQ(w.base->log.size(), 12);  // never anything twice
}

TEST(lookahead_replaces_a_rejected_draft_token_and_goes_back_to_it) {
    // The assistant differs after one text alone.
    const Function base = random_function(1, kVocab);
    Case c;
    c.ends = false;
    c.policy.threshold = 0.0;
    World plain(c);
    c.share = 0.0;
    c.limit = 3 + 6;
    World alike(c);
    const Text agreed = [&] {
        alike.write(std::nullopt);
        return alike.sequence.tokens;
    }();
    const Text at(agreed.begin(), agreed.begin() + 5);
    const Token other = (agreed[5] + 1) % static_cast<Token>(kVocab);
    const Function assistant = [&](const Text& text) {
        std::vector<float> values = base(text);
        if (text == at) values[static_cast<std::size_t>(other)] = 9.0f;
        return values;
    };
    auto base_model = std::make_unique<FakeModel>(FakeModelOptions{}, base);
    auto assistant_model = std::make_unique<FakeModel>(FakeModelOptions{}, assistant);
    FakeModel& base_log = *base_model;
    FakeModel& assistant_log = *assistant_model;
    Engine engine(std::move(base_model), std::move(assistant_model), kVocab);
    Sequence& sequence = alike.sequence;
    sequence = Sequence();
    sequence.tokens = {1, 2, 3};
    sequence.n_prompt = 3;
    Draft draft(sequence, 4, 9, [](Token) { return false; });
    const auto step = [&] { return engine.step(sequence, *alike.router, draft, alike.interrupt); };
    CHECK_EQ(step().token, agreed[3]);
    CHECK_EQ(draft.n_ahead(), 2);  // the next right one, and the one that replaced the third
    CHECK_EQ(step().token, agreed[4]);
    CHECK_EQ(base_log.log.size(), 4);  // three tokens in one batch, then three more
    CHECK_EQ(step().token, other);
    CHECK_EQ(base_log.log.size(), 4);  // it was known
    CHECK_EQ(sequence.stats.n_drafted, 3);
    CHECK_EQ(sequence.stats.n_accepted, 2);
    CHECK_EQ(sequence.stats.n_deferred, 3);
    base_log.take_log();
    assistant_log.take_log();
    step();
    CHECK_EQ(base_log.log[0], "rewind 5 -> 5");
    CHECK_EQ(base_log.log[1], "eval 5 [" + std::to_string(other) + "] logits");
    CHECK_EQ(assistant_log.log[0], "rewind 5 -> 5");
}

TEST(lookahead_leaves_the_base_alone_where_nothing_is_deferred) {
    Case c;
    c.policy.threshold = 1.0;
    World w(c);
    World plain(c);
    w.write(8);
    plain.write(std::nullopt);
    CHECK_EQ(w.base->log, plain.base->log);
    CHECK_EQ(w.assistant->log, Log{});
}

TEST(lookahead_with_a_head_that_needs_no_base_lets_the_assistant_write_one_more) {
    Case c;
    c.head = "always";
    c.share = 0.0;
    c.ends = false;
    c.limit = 3 + 10;
    World w(c);
    w.write(4);
    CHECK_EQ(w.sequence.stats.assistant_calls, 2);  // four draft tokens and a token of its own, twice
    CHECK_EQ(w.sequence.stats.n_drafted, 8);
    CHECK_EQ(w.sequence.stats.base_steps, 8);
    CHECK_EQ(w.sequence.n_generated(), 10);
}

TEST(lookahead_is_off_for_models_that_cannot_go_back) {
    Case c;
    c.policy.threshold = 0.0;
    c.options.can_rewind = false;
    World w(c);
    CHECK(!w.engine->can_look_ahead());
    w.write(8);
    CHECK_EQ(w.sequence.stats.n_drafted, 0);

    // Nor is it for those that say they can and do not, once they were seen.
    c.options.admits_it = false;
    c.share = 1.0;
    c.ends = false;
    World liar(c);
    World plain(c);
    CHECK(liar.engine->can_look_ahead());
    check_same(liar.write(8), plain.write(std::nullopt));
    CHECK(!liar.engine->can_look_ahead());
    CHECK(liar.sequence.stats.n_drafted <= 16);
}

TEST(lookahead_auto_drafts_where_it_pays_alone) {
    // Whatever it decides it writes the same; here, what it decides.
    const auto estimates = [](double base, double call, double token, double rate) {
        colm::Estimates e;
        for (int i = 0; i < 50; ++i) {
            e.base_step(base);
            e.assistant_batch(static_cast<std::size_t>(1 + i % 8), call + (1 + i % 8) * token);
            e.position(i % 100 < static_cast<int>(rate * 100) || rate == 1.0);
        }
        return e;
    };
    const colm::Estimates gpu = estimates(0.005, 0.020, 0.0001, 1.0);
    CHECK_NEAR(gpu.base_seconds(), 0.005, 1e-6);
    CHECK_NEAR(gpu.call_seconds(), 0.020, 1e-3);
    CHECK_NEAR(gpu.token_seconds(), 0.0001, 2e-4);
    CHECK(gpu.worth_going_on(0.9));
    CHECK(gpu.worth_going_on(0.5));
    CHECK(!gpu.worth_going_on(0.05));
    // Reading is no faster than writing: nothing is saved by asking once for two.
    const colm::Estimates compute_bound = estimates(0.030, 0.0, 0.070, 1.0);
    CHECK(!compute_bound.worth_going_on(0.9));
    // Never before both were measured.
    colm::Estimates none;
    CHECK(!none.worth_going_on(1.0));
    none.base_step(0.01);
    CHECK(!none.worth_going_on(1.0));
    none.assistant_batch(1, 0.05);
    CHECK(none.worth_going_on(0.95));
}

TEST(lookahead_learns_the_acceptance_rate) {
    colm::Estimates e;
    CHECK_NEAR(e.acceptance_rate(2.0), reference::sigmoid(2.0), 1e-9);
    for (int i = 0; i < 400; ++i) e.verified(2.0, i % 4 == 0);
    CHECK_NEAR(e.acceptance_rate(2.0), 0.25, 0.03);
    CHECK_NEAR(e.acceptance_rate(-1.0), reference::sigmoid(-1.0), 1e-9);
    // One slow batch does not change its mind.
    for (int i = 0; i < 20; ++i) e.assistant_batch(1, 0.05);
    const double before = e.call_seconds() + e.token_seconds();
    e.assistant_batch(1, 5.0);
    CHECK(e.call_seconds() + e.token_seconds() < 1.2 * before);
}

TEST(lookahead_may_be_cancelled_anywhere) {
    for (std::size_t at = 1; at < 25; ++at) {
        Case c;
        c.share = 0.5;
        c.ends = false;
        World plain(c);
        plain.write(std::nullopt);
        World w(c);
        std::size_t n = 0;
        const auto stop = [&](std::size_t, Interrupt&) {
            if (++n == at) throw Cancelled();
        };
        w.base->on_eval = stop;
        w.assistant->on_eval = stop;
        Draft draft(w.sequence, 5, w.limit, [](Token) { return false; });
        int cancelled = 0;
        while (!w.done()) {
            const Text before = w.sequence.tokens;
            try {
                w.engine->step(w.sequence, *w.router, draft, w.interrupt);
            } catch (const Cancelled&) {
                ++cancelled;
                CHECK_EQ(w.sequence.tokens, before);
            }
        }
        CHECK_EQ(cancelled, 1);
        CHECK_EQ(w.sequence.tokens, plain.sequence.tokens);
    }
}

TEST(lookahead_texts_may_take_turns) {
    Case c;
    c.share = 0.5;
    c.ends = false;
    World plain(c);
    plain.write(std::nullopt);
    World w(c);
    Case other = c;
    other.seed = 1;
    World second(other);
    Sequence& a = w.sequence;
    Sequence b;
    b.tokens = {3, 2, 1};
    b.n_prompt = 3;
    const auto never = [](Token) { return false; };
    Draft draft_a(a, 6, c.limit, never);
    Draft draft_b(b, 6, c.limit, never);
    while (a.tokens.size() < c.limit) {
        w.engine->step(a, *w.router, draft_a, w.interrupt);
        w.engine->step(b, *second.router, draft_b, w.interrupt);
    }
    CHECK_EQ(a.tokens, plain.sequence.tokens);
}
