#include "colm/generation.h"

#include <atomic>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "colm/error.h"
#include "fake_model.h"

using colm::FinishReason;
using colm::Generation;
using colm::Interrupt;
using colm::Source;
using colm::Token;

namespace {

using Text = FakeModel::Text;
using Texts = std::vector<std::string>;

// Ids 0 to 9 write these; 0 ends the text, 1 is a control token.
const Texts kPieces = {"<end>", "", "a", "b", "c", "\xE2", "\x82\xAC", "x stop y", "st", "op"};
const Text kPrompt = {2, 3};

// The token that follows `text` is script[generated so far], and the last one for ever.
FakeModel::Function follow(Text script) {
    return [script = std::move(script)](const Text& text) {
        std::vector<float> logits(kPieces.size(), 0.0f);
        const std::size_t at = std::min(text.size() - kPrompt.size(), script.size() - 1);
        logits[static_cast<std::size_t>(script[at])] = 5.0f;
        return logits;
    };
}

struct Script {
    Text base;
    Text assistant = {4};
    double threshold = 1.0;  // 0: the assistant writes
    std::size_t n_ctx = 64;
    int max_tokens = 128;
    Texts stop = {};
    Text prompt = kPrompt;
    std::function<bool()> poll = {};
};

struct Fixture {
    explicit Fixture(const Script& script) {
        FakeModelOptions options;
        options.n_vocab = kPieces.size();
        options.n_ctx = script.n_ctx;
        auto base_model = std::make_unique<FakeModel>(options, follow(script.base));
        auto assistant_model = std::make_unique<FakeModel>(options, follow(script.assistant));
        base = base_model.get();
        assistant = assistant_model.get();
        engine =
            std::make_shared<colm::Engine>(std::move(base_model), std::move(assistant_model), kPieces.size());
        colm::PolicyOptions policy;
        policy.threshold = script.threshold;
        colm::Router router{colm::make_training_free_head("confidence"), colm::Policy(policy),
                            colm::Mixer(colm::StrategyOptions{}), std::make_unique<GreedySampler>()};
        sampler = static_cast<GreedySampler*>(router.sampler.get());
        generation = std::make_unique<Generation>(
            engine, script.prompt, std::move(router), Generation::Limits{script.max_tokens, script.stop},
            [](Token token) { return kPieces.at(static_cast<std::size_t>(token)); },
            [](Token token) { return token == 0; }, script.poll);
    }

    // All texts to the end, and that nothing comes after it.
    Texts rest() {
        Texts texts;
        while (auto step = generation->next()) texts.push_back(step->text);
        const FinishReason reason = generation->finish_reason();
        const std::size_t n_decodes = base->log.size();
        CHECK(reason != FinishReason::none);
        for (int i = 0; i < 3; ++i) CHECK(!generation->next());
        CHECK_EQ(generation->finish_reason(), reason);
        CHECK_EQ(base->log.size(), n_decodes);
        return texts;
    }
    FinishReason reason() const { return generation->finish_reason(); }

    FakeModel* base = nullptr;
    FakeModel* assistant = nullptr;
    GreedySampler* sampler = nullptr;
    std::shared_ptr<colm::Engine> engine;
    std::unique_ptr<Generation> generation;
};

std::unique_ptr<Generation> make(const Script& script) { return std::move(Fixture(script).generation); }

}  // namespace

TEST(generation_ends_at_eos) {
    Fixture f({{2, 3, 4, 0, 2}});
    CHECK_EQ(f.reason(), FinishReason::none);
    CHECK_EQ(f.rest(), (Texts{"a", "b", "c"}));
    CHECK_EQ(f.reason(), FinishReason::eos);
    CHECK(f.generation->end_step().has_value());
    CHECK_EQ(f.generation->end_step()->token, 0);
    CHECK_EQ(f.generation->end_step()->source, Source::base);
    CHECK(f.generation->end_step()->logprob < 0.0);
    CHECK_EQ(f.generation->sequence().tokens, (Text{2, 3, 2, 3, 4, 0}));
    CHECK_EQ(f.generation->sequence().n_prompt, 2);
    CHECK_EQ(f.generation->sequence().stats.base_steps, 4);
}

TEST(generation_says_who_ended_it) {
    Script script{{2}, {4, 0}};
    script.threshold = 0.0;
    Fixture f(script);
    const auto step = f.generation->next();
    CHECK_EQ(step->text, "c");
    CHECK_EQ(step->step.source, Source::assistant);
    CHECK_EQ(f.rest(), Texts{});
    CHECK_EQ(f.generation->end_step()->source, Source::assistant);
    CHECK_EQ(f.generation->sequence().stats.n_deferred, 2);  // the end counts
}

TEST(generation_ends_at_once) {
    Fixture f({{0}});
    CHECK_EQ(f.rest(), Texts{});
    CHECK_EQ(f.reason(), FinishReason::eos);
}

TEST(generation_ends_after_max_tokens) {
    for (const int n : {1, 3}) {
        Script script{{2}};
        script.max_tokens = n;
        Fixture f(script);
        CHECK_EQ(f.rest(), Texts(static_cast<std::size_t>(n), "a"));
        CHECK_EQ(f.reason(), FinishReason::length);
        CHECK(!f.generation->end_step());
        CHECK_EQ(f.base->log.size(), n);  // nothing is read for a token that may not come
    }
}

TEST(generation_of_no_tokens) {
    Script script{{2}};
    script.max_tokens = 0;
    Fixture f(script);
    CHECK_EQ(f.rest(), Texts{});
    CHECK_EQ(f.reason(), FinishReason::length);
    CHECK(f.base->log.empty());
}

TEST(generation_ends_where_the_context_is_full) {
    for (const int max_tokens : {-1, 128}) {
        Script script{{2}};
        script.max_tokens = max_tokens;
        script.n_ctx = 6;
        Fixture f(script);
        CHECK_EQ(f.rest(), Texts(4, "a"));
        CHECK_EQ(f.reason(), FinishReason::length);
        CHECK_EQ(f.generation->sequence().tokens.size(), 6);
    }
    Script script{{2}};
    script.n_ctx = 2;  // the prompt fills it
    Fixture f(script);
    CHECK_EQ(f.rest(), Texts{});
    CHECK_EQ(f.reason(), FinishReason::length);
}

TEST(generation_ends_at_a_stop_string) {
    Script script{{2, 8, 9, 3}};
    script.stop = {"stop"};
    Fixture f(script);
    CHECK_EQ(f.rest(), (Texts{"a", "", ""}));  // every token that was generated, cut
    CHECK_EQ(f.reason(), FinishReason::stop);
    CHECK(!f.generation->end_step());
    CHECK_EQ(f.generation->sequence().n_generated(), 3);

    Script inside{{2, 7, 3}};
    inside.stop = {"stop"};
    Fixture g(inside);
    CHECK_EQ(g.rest(), (Texts{"a", "x "}));
    CHECK_EQ(g.reason(), FinishReason::stop);
}

TEST(generation_stop_with_the_last_token_is_a_stop) {
    Script script{{8, 9}};
    script.stop = {"stop"};
    script.max_tokens = 2;
    Fixture f(script);
    CHECK_EQ(f.rest(), (Texts{"", ""}));
    CHECK_EQ(f.reason(), FinishReason::stop);
}

TEST(generation_lets_go_of_what_waited_at_each_end) {
    // "st" may begin "stop" when the text ends.
    Script script{{2, 8, 0}};
    script.stop = {"stop"};
    Fixture eos(script);
    CHECK_EQ(eos.rest(), (Texts{"a", "st"}));
    CHECK_EQ(eos.reason(), FinishReason::eos);

    script.max_tokens = 2;
    Fixture length(script);
    CHECK_EQ(length.rest(), (Texts{"a", "st"}));
    CHECK_EQ(length.reason(), FinishReason::length);

    script.max_tokens = 128;
    Fixture cancelled(script);
    CHECK_EQ(cancelled.generation->next()->text, "a");
    cancelled.base->on_eval = [&](std::size_t i, Interrupt&) {
        if (i == 2) throw colm::Cancelled();
    };
    CHECK_EQ(cancelled.rest(), (Texts{"st"}));
    CHECK_EQ(cancelled.reason(), FinishReason::cancelled);
}

TEST(generation_characters_take_several_steps) {
    Fixture f({{2, 5, 6, 1, 3, 0}});
    CHECK_EQ(f.generation->next()->text, "a");
    CHECK_EQ(f.generation->sequence().n_generated(), 1);  // no further than it has to
    const auto first = f.generation->next();
    CHECK_EQ(first->text, "");
    CHECK_EQ(first->step.token, 5);
    CHECK_EQ(f.generation->sequence().n_generated(), 3);
    CHECK_EQ(f.generation->next()->text, "\xE2\x82\xAC");
    CHECK_EQ(f.generation->next()->text, "");  // the control token
    CHECK_EQ(f.rest(), (Texts{"b"}));
}

TEST(generation_character_cut_short) {
    Script script{{2, 5, 6}};
    script.max_tokens = 2;
    Fixture f(script);
    CHECK_EQ(f.rest(), (Texts{"a", "\xEF\xBF\xBD"}));
    CHECK_EQ(f.reason(), FinishReason::length);
}

TEST(generation_cancelled) {
    Fixture before({{2}});
    before.generation->cancel();
    CHECK_EQ(before.rest(), Texts{});
    CHECK_EQ(before.reason(), FinishReason::cancelled);
    CHECK(before.base->log.empty());

    Fixture between({{2}});
    between.generation->next();
    between.generation->cancel();
    CHECK_EQ(between.rest(), Texts{});
    CHECK_EQ(between.reason(), FinishReason::cancelled);
    CHECK_EQ(between.generation->sequence().n_generated(), 1);

    Fixture inside({{2}});
    inside.base->on_eval = [&](std::size_t i, Interrupt& interrupt) {
        if (i < 2) return;
        inside.generation->cancel();  // as another thread would
        interrupt.check();
    };
    CHECK_EQ(inside.rest(), (Texts{"a", "a"}));
    CHECK_EQ(inside.reason(), FinishReason::cancelled);

    Fixture after({{2, 0}});
    CHECK_EQ(after.rest(), (Texts{"a"}));
    after.generation->cancel();
    CHECK(!after.generation->next());
    CHECK_EQ(after.reason(), FinishReason::eos);
}

TEST(generation_cancelled_by_the_host) {
    bool stop = false;
    Script script{{2}};
    script.poll = [&] { return stop; };
    Fixture f(script);
    stop = true;
    CHECK_EQ(f.rest(), Texts{});
    CHECK_EQ(f.reason(), FinishReason::cancelled);
}

TEST(generation_failed_step_ends_it) {
    Script script{{2, 8, 2}};
    script.stop = {"stop"};
    Fixture f(script);
    CHECK_EQ(f.generation->next()->text, "a");
    f.base->on_eval = [](std::size_t i, Interrupt&) {
        if (i == 2) throw colm::GenerationError("decode failed");
    };
    CHECK_THROWS(colm::GenerationError, f.generation->next(), "decode failed");
    CHECK_EQ(f.reason(), FinishReason::failed);
    CHECK_EQ(f.rest(), Texts{});
    CHECK_EQ(f.reason(), FinishReason::failed);

    // Whatever was thrown.
    Fixture g({{2}});
    g.sampler->on_choose = [] { throw std::runtime_error("grammar"); };
    CHECK_THROWS(std::runtime_error, g.generation->next(), "grammar");
    CHECK_EQ(g.rest(), Texts{});
    CHECK_EQ(g.reason(), FinishReason::failed);
}

TEST(generation_is_read_by_other_threads_meanwhile) {
    Script script{{2}};
    script.max_tokens = 60;
    Fixture f(script);
    std::atomic<bool> done{false};
    std::string failure;
    std::thread reader([&] {
        try {
            std::size_t last = kPrompt.size();
            do {
                const colm::Sequence seen = f.generation->sequence();
                CHECK(seen.tokens.size() >= last);
                CHECK_EQ(seen.n_prompt, kPrompt.size());
                CHECK_EQ(seen.stats.base_steps, seen.n_generated());  // what a whole step left
                CHECK_EQ(seen.calls.size(), seen.n_generated());
                CHECK(!f.generation->end_step());
                last = seen.tokens.size();
            } while (!done && f.generation->finish_reason() == FinishReason::none);
        } catch (const check::Failure& caught) {
            failure = caught.message;
        }
    });
    Texts texts;
    try {
        texts = f.rest();
    } catch (const check::Failure& caught) {
        failure = caught.message;
    }
    done = true;
    reader.join();
    CHECK_EQ(failure, "");
    CHECK_EQ(texts.size(), 60);
}

TEST(generation_of_one_engine_after_another) {
    Fixture f({{2, 3, 0}});
    CHECK_EQ(f.rest(), (Texts{"a", "b"}));
    f.base->take_log();
    // The prompt and the text are known; only the last token is read again.
    colm::Router router{colm::make_training_free_head("confidence"), colm::Policy(colm::PolicyOptions{1.0}),
                        colm::Mixer(colm::StrategyOptions{}), std::make_unique<GreedySampler>()};
    Generation again(
        f.engine, {2, 3, 2, 3}, std::move(router), {1, {}}, [](Token) { return std::string("?"); },
        [](Token) { return false; }, {});
    CHECK_EQ(again.next()->step.token, 0);
    CHECK_EQ(f.base->log, (std::vector<std::string>{"rewind 3 -> 3", "eval 3 [3] logits"}));
}

TEST(generation_checks_its_arguments) {
    Script script{{2}};
    script.max_tokens = -2;
    CHECK_THROWS(colm::OptionError, make(script), "max_tokens is -2");
    script.max_tokens = 1;
    script.stop = {""};
    CHECK_THROWS(colm::OptionError, make(script), "stop string is empty");
    script.stop = {};
    script.prompt = {};
    CHECK_THROWS(colm::TokenizeError, make(script), "no tokens");
    script.prompt = {2, 3, 2};
    script.n_ctx = 2;
    CHECK_THROWS(colm::ContextFull, make(script), "the prompt has 3 tokens and the context holds 2");
    try {
        make(script);
    } catch (const colm::ContextFull& error) {
        CHECK_EQ(error.fields().at(0).first, "n_prompt");
        CHECK_EQ(std::get<std::int64_t>(error.fields().at(0).second), 3);
        CHECK_EQ(error.fields().at(1).first, "n_ctx");
        CHECK_EQ(std::get<std::int64_t>(error.fields().at(1).second), 2);
    }
}
