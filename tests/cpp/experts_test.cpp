// More than one expert beside the base: who writes, who reads what, and prompts of their own.
#include <map>
#include <set>

#include "loop_models.h"

using colm::ExpertId;
using colm::HeadInput;
using colm::kBase;
using colm::View;
using Text = FakeModel::Text;

namespace {

constexpr double kInfinity = reference::kInfD;

// Scores for K experts: a function of position and seed, and with `asks_base` of the base's distribution.
struct ScoresHead final : colm::Head {
    ScoresHead(std::size_t n, bool asks) : n_experts(n), asks_base(asks) {}
    double defer_logit(const HeadInput& input) const override {
        std::vector<double> scores(n_experts);
        score(input, scores.data());
        return colm::any_of({scores.data(), scores.size()});
    }
    std::size_t n_scores() const override { return n_experts; }
    void score(const HeadInput& input, double* scores) const override {
        for (std::size_t k = 0; k < n_experts; ++k) {
            const std::uint64_t key = (std::uint64_t{input.seed} << 32) ^ (input.position * 16 + k);
            scores[k] = 6.0 * colm::uniform(colm::splitmix64(key)) - 3.0;
            if (asks_base) scores[k] -= 0.3 * input.distribution->log_odds();
        }
    }
    bool needs_base() const override { return asks_base; }

    std::size_t n_experts;
    bool asks_base;
};

// The token at a position is that expert's; 0: the base's.
HeadPtr written_by(std::map<std::size_t, ExpertId> who, std::size_t n_experts) {
    struct WhoHead final : colm::Head {
        double defer_logit(const HeadInput& input) const override {
            const auto found = who.find(input.position);
            return found == who.end() || found->second == kBase ? -1.0 : 1.0;
        }
        std::size_t n_scores() const override { return n; }
        void score(const HeadInput& input, double* scores) const override {
            std::fill_n(scores, n, -kInfinity);
            const auto found = who.find(input.position);
            if (found != who.end() && found->second != kBase) scores[found->second - 1] = 1.0;
        }
        std::map<std::size_t, ExpertId> who;
        std::size_t n = 0;
    };
    auto head = std::make_shared<WhoHead>();
    head->who = std::move(who);
    head->n = n_experts;
    return head;
}

// Looks at hidden states and at the distribution, for K experts.
HeadPtr learned_head_for(std::size_t n_experts, reference::Random& random) {
    colm::HeadInfo info;
    info.n_embd = kEmbd;
    info.features = {colm::Feature::log_odds, colm::Feature::margin};
    return std::make_shared<colm::LearnedHead>(
        info,
        std::vector<colm::HeadLayer>{{kEmbd + 2, n_experts, random.values(n_experts * (kEmbd + 2), -0.7, 0.7),
                                      random.values(n_experts, -0.5, 0.5)}});
}

std::vector<Job> random_jobs_for(std::size_t n_experts, reference::Random& random, std::size_t n) {
    std::vector<Job> jobs = random_jobs(random, n);
    for (Job& job : jobs) {
        const auto who = static_cast<ExpertId>(1 + random.below(n_experts));
        if (random.chance(0.3) && job.head->n_scores() == 1)
            job.head = std::make_shared<colm::DirectedHead>(job.head, who, n_experts);
        else if (random.chance(0.4))
            job.head = learned_head_for(n_experts, random);
        else
            job.head = std::make_shared<ScoresHead>(n_experts, random.chance(0.7));
        if (n_experts > 1 && random.chance(0.25)) {
            job.strategy.strategy = colm::Strategy::proxy;
            job.strategy.proxy_weight = random.between(0.0, 2.0);
            job.proxy.tuned = who;
            job.proxy.untuned = static_cast<ExpertId>(1 + who % n_experts);
        }
        for (ExpertId expert = 1; expert <= n_experts; ++expert) {
            if (!random.chance(0.3)) continue;
            Text& own = job.own_prompts[expert];
            for (std::size_t k = 1 + random.below(9); k > 0; --k)
                own.push_back(static_cast<colm::Token>(random.below(kVocab)));
            if (random.chance(0.5)) own.insert(own.end(), job.prompt.begin(), job.prompt.end());
        }
    }
    return jobs;
}

Models random_models(std::size_t n_experts, std::uint32_t seed, reference::Random& random) {
    Models models = nearly_alike(seed, random.between(0.0, 1.0));
    for (std::uint32_t k = 2; k <= n_experts; ++k)
        models.more.push_back(nearly(models.base, seed + 100 * k, kVocab, random.between(0.0, 1.0)));
    models.choices = {kVocab - 1, {3}};
    return models;
}

// As those of loop_models.h: expert k counts by k + 1.
Models counting_experts(std::size_t n_experts) {
    Models models = counting_models();
    for (std::size_t k = 2; k <= n_experts; ++k)
        models.more.push_back(counting(static_cast<colm::Token>(k + 1)));
    return models;
}

std::size_t n_batches(const FakeModel& model) { return batches(model).size(); }

}  // namespace

// The oracle: 1 to 3 experts, 1 to 4 texts at once, each with prompts of its own for some, with look-ahead.
TEST_CASE("experts: a text is what it is alone") {
    reference::Random random(17);
    Seen seen;
    std::map<colm::Strategy, int> strategies;
    std::size_t n_own = 0;
    for (std::uint32_t round = 0; round < reference::rounds(400); ++round) {
        const std::size_t n_experts = 1 + round % 3;
        const Models models = random_models(n_experts, round, random);
        World w(models, random_limits(random, 4, 24));
        const auto check = [&](const Job& job, const Written& got, const Written& alone) {
            check_text(got, alone);
            n_own += job.own_prompts.size();
            for (const auto& [step, text] : got.steps)
                if (step.expert != kBase) ++strategies[job.strategy.strategy];
            for (ExpertId expert = 1; job.lookahead == 0 && expert <= n_experts && got.error.empty();
                 ++expert) {
                const std::size_t n_calls = alone.sequence.stats.of(expert).calls;
                REQUIRE_EQ(got.sequence.stats.of(expert).calls, n_calls);
                if (n_calls == 0) REQUIRE_EQ(got.sequence.stats.of(expert).tokens_read, 0U);
            }
        };
        check_round(w, models, random_jobs_for(n_experts, random, 1 + random.below(4)), random, 0.2, seen,
                    check);
    }
    seen.require_all();
    for (ExpertId expert = 0; expert < 4; ++expert) REQUIRE(seen.experts[expert] > reference::rounds(300));
    for (const auto& [strategy, n] : strategies) REQUIRE(n > reference::rounds(100));
    REQUIRE_EQ(strategies.size(), 5U);
    REQUIRE(n_own > reference::rounds(100));
}

TEST_CASE("experts: each verifies its own draft tokens in one batch") {
    // All models write the same, and every guess is right: who is whose turn does not matter.
    Models models = counting_experts(2);
    models.assistant = models.more[0] = models.base;
    World w(models, one_slot());
    Job job;
    job.max_tokens = 6;
    job.lookahead = 6;
    job.head = written_by({{1, 1}, {2, 2}, {3, 1}, {4, 2}, {5, 1}, {6, 2}}, 2);
    w.add(std::vector<Job>{job});
    w.run();
    const colm::Stats stats = w.written[0].sequence.stats;
    REQUIRE_EQ(w.written[0].sequence.tokens, (Text{10, 11, 12, 13, 14, 15, 16}));
    REQUIRE_EQ(batches(*w.all[1]), (Log{"0@0: 10* 11 12* 13 14*"}));
    REQUIRE_EQ(batches(*w.all[2]), (Log{"0@0: 10 11* 12 13* 14 15*"}));
    REQUIRE_EQ(stats.n_accepted, 6U);
    REQUIRE_EQ(stats.of(1).tokens, 3U);
    REQUIRE_EQ(stats.of(2).tokens, 3U);
}

TEST_CASE("experts: the first wrong guess of any decides") {
    // The second expert disagrees with the base at its first token. What the first one accepted behind it is
    // dropped.
    Models models = counting_experts(2);
    models.assistant = models.base;
    World w(models, one_slot());
    Job job;
    job.max_tokens = 4;
    job.lookahead = 4;
    job.head = written_by({{1, 1}, {2, 2}, {3, 1}, {4, 1}}, 2);
    w.add(std::vector<Job>{job});
    w.run();
    REQUIRE_EQ(w.written[0].sequence.tokens, (Text{10, 11, 14, 15, 16}));
    REQUIRE_EQ(w.written[0].sequence.stats.n_accepted, 3U);
    REQUIRE_EQ(w.written[0].sequence.stats.n_drafted, 4U);
    REQUIRE_EQ(n_batches(*w.all[2]), 1U);
    std::vector<ExpertId> who;
    for (const auto& [step, text] : w.written[0].steps) who.push_back(step.expert);
    REQUIRE_EQ(who, (std::vector<ExpertId>{1, 2, 1, 1}));
}

TEST_CASE("experts: one that is not needed reads nothing") {
    World w(counting_experts(3));
    std::vector<Job> jobs(2);
    for (Job& job : jobs) job.max_tokens = 5;
    jobs[0].head = written_by({{2, 1}, {4, 1}}, 3);
    jobs[1].prompt = {12};
    jobs[1].head = written_by({{3, 3}}, 3);
    w.add(jobs);
    w.run();
    REQUIRE_EQ(w.written[0].sequence.tokens, (Text{10, 11, 13, 14, 16, 17}));
    REQUIRE_EQ(w.written[1].sequence.tokens, (Text{12, 13, 14, 18, 19, 20}));
    REQUIRE(w.all[2]->log.empty());
    REQUIRE_EQ(w.written[0].sequence.stats.of(3).tokens_read, 0U);
    REQUIRE_EQ(w.written[1].sequence.stats.of(1).tokens_read, 0U);
    REQUIRE_EQ(batches(*w.all[3]), (Log{"1@0: 12 13 14*"}));
    REQUIRE_EQ(w.written[1].sequence.stats.of(3).calls, 1U);
}

// The slot held another text of an expert's: that is no reason to read this one.
TEST_CASE("experts: one that another text needed reads nothing of this one") {
    World w(counting_experts(2), one_slot());
    std::vector<Job> jobs(2);
    jobs[0].head = written_by({{1, 2}, {2, 2}}, 2);
    jobs[1].prompt = {20};
    jobs[1].head = written_by({}, 2);
    for (Job& job : jobs) job.max_tokens = 3;
    w.add(jobs);
    w.run();
    REQUIRE_EQ(w.written[1].sequence.stats.of(2).tokens_read, 0U);
    REQUIRE_EQ(w.written[0].sequence.stats.of(2).calls, 2U);
}

TEST_CASE("experts: whoever holds its turn keeps it from the others") {
    World w(counting_experts(2), one_slot());
    Job job;
    job.max_tokens = 4;
    job.policy.hold = 3;
    job.head = written_by({{1, 2}, {2, 1}, {3, 1}, {4, 1}}, 2);
    w.add(std::vector<Job>{job});
    w.run();
    REQUIRE_EQ(w.written[0].sequence.tokens, (Text{10, 13, 16, 19, 21}));
    REQUIRE_EQ(w.written[0].sequence.stats.of(2).tokens, 3U);
    REQUIRE_EQ(w.written[0].sequence.stats.of(1).tokens, 1U);
}

TEST_CASE("experts: each reads its own prompt and the text behind it") {
    World w(counting_experts(2), one_slot());
    Job job;
    job.prompt = {10, 11};
    job.max_tokens = 3;
    job.own_prompts = {{2, {20, 21, 5}}};
    job.head = written_by({{2, 2}, {3, 1}, {4, 2}}, 2);
    w.add(std::vector<Job>{job});
    w.run();
    // The second expert counts by three from its own prompt's last token, then from what the first one wrote.
    REQUIRE_EQ(w.written[0].sequence.tokens, (Text{10, 11, 8, 10, 13}));
    REQUIRE_EQ(batches(*w.all[1]), (Log{"0@0: 10 11 8*"}));
    REQUIRE_EQ(batches(*w.all[2]), (Log{"0@0: 20 21 5*", "0@3: 8 10*"}));
}

TEST_CASE("experts: a text ends where its longest prompt fills the context") {
    Limits limits = one_slot();
    limits.n_ctx = 12;
    World w(counting_experts(1), limits);
    std::vector<Job> jobs(2);
    for (Job& job : jobs) {
        job.prompt = {10, 11};
        job.max_tokens = -1;
    }
    jobs[1].own_prompts = {{1, Text(9, 4)}};
    w.add(jobs);
    w.run();
    REQUIRE_EQ(w.written[0].sequence.n_generated(), 10U);
    REQUIRE_EQ(w.written[1].sequence.n_generated(), 3U);
    jobs[1].own_prompts = {{1, Text(13, 4)}};
    REQUIRE_THROWS_AS(make_writing(jobs[1], 12), colm::ContextFull);
    jobs[1].own_prompts = {{1, {}}};
    REQUIRE_THROWS_AS(make_writing(jobs[1], 12), colm::TokenizeError);
}

TEST_CASE("experts: the log-odds of a deferral are those of any expert") {
    reference::Random random(3);
    for (int round = 0; round < 50; ++round) {
        std::vector<double> z(1 + random.below(5));
        for (double& x : z) x = random.between(-20.0, 20.0);
        double sum = 0.0;
        for (const double x : z) sum += std::exp(x);
        const double any = colm::any_of({z.data(), z.size()});
        REQUIRE_EQ(any, about(std::log(sum), 1e-9));
        if (z.size() == 1) REQUIRE_EQ(any, z[0]);
        std::vector<double> shares = z;
        colm::shares_of({shares.data(), shares.size()});
        for (std::size_t k = 0; k < z.size(); ++k)
            REQUIRE_EQ(std::exp(shares[k]), about(std::exp(z[k]) / sum, 1e-9));
    }
    const auto any = [](std::vector<double> z) { return colm::any_of({z.data(), z.size()}); };
    REQUIRE_EQ(any({kInfinity, 3.0}), kInfinity);
    REQUIRE_EQ(any({-kInfinity, -kInfinity}), -kInfinity);
    REQUIRE_EQ(any({-kInfinity, 0.7, -kInfinity}), 0.7);
    REQUIRE(std::isnan(any({1.0, reference::kNanD})));
    const auto shares = [](std::vector<double> z) {
        colm::shares_of({z.data(), z.size()});
        for (double& x : z) x = std::exp(x);
        return z;
    };
    REQUIRE_EQ(shares({kInfinity, 3.0}), (std::vector<double>{1.0, 0.0}));
    REQUIRE_EQ(shares({-kInfinity, -kInfinity}), (std::vector<double>{0.5, 0.5}));
}

TEST_CASE("experts: compose is the mixture over all of them") {
    reference::Random random(5);
    colm::Mixer mixer(colm::StrategyOptions{colm::Strategy::compose, 0.5, 0.1});
    for (int round = 0; round < 20; ++round) {
        const std::size_t n = 2 + random.below(30);
        const std::vector<float> base = random.values(n, -5.0, 5.0);
        std::vector<std::vector<float>> experts;
        std::vector<double> z;
        for (std::size_t k = 0; k < 1 + random.below(3); ++k) {
            experts.push_back(random.values(n, -5.0, 5.0));
            z.push_back(random.between(-3.0, 3.0));
        }
        std::vector<double> shares = z;
        colm::shares_of({shares.data(), shares.size()});
        const auto routed = [](const std::vector<float>& logits) {
            return colm::Routed{reference::view(logits), colm::summarize(reference::view(logits))};
        };
        std::vector<colm::Routed> each;
        for (const auto& expert : experts) each.push_back(routed(expert));
        std::vector<colm::Mixer::Part> parts;
        for (std::size_t k = 0; k < each.size(); ++k) parts.push_back({&each[k], shares[k]});
        const colm::Routed mixed = mixer.compose(routed(base), parts, colm::any_of({z.data(), z.size()}));
        double all = 1.0;
        for (const double x : z) all += std::exp(x);
        for (std::size_t i = 0; i < n; ++i) {
            double p = reference::softmax(base)[i] / all;
            for (std::size_t k = 0; k < z.size(); ++k)
                p += std::exp(z[k]) / all * reference::softmax(experts[k])[i];
            REQUIRE_EQ(mixed.logits[i] - mixed.distribution.log_normalizer, about(std::log(p), 1e-5));
        }
    }
}

TEST_CASE("experts: a head that says when is directed to one") {
    const colm::DirectedHead head(named("random"), 2, 3);
    HeadInput input;
    input.position = 7;
    double scores[3];
    head.score(input, scores);
    REQUIRE_EQ(scores[0], -kInfinity);
    REQUIRE_EQ(scores[1], named("random")->defer_logit(input));
    REQUIRE_EQ(scores[2], -kInfinity);
    REQUIRE_EQ(colm::any_of({scores, 3}), scores[1]);
    const auto make = [](std::size_t n_scores, ExpertId who) {
        colm::DirectedHead(std::make_shared<ScoresHead>(n_scores, true), who, 3);
    };
    REQUIRE_THROWS_AS(make(2, 1), colm::HeadError);
    REQUIRE_THROWS_AS(make(1, 0), colm::HeadError);
    REQUIRE_THROWS_AS(make(1, 4), colm::HeadError);
}
