#include "colm/writing.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "colm/error.h"
#include "world.h"

using colm::ExpertId;
using colm::FinishReason;
using colm::kBase;
using colm::Step;
using colm::Token;
using colm::Writing;

namespace {

constexpr ExpertId kAssistant = 1;

using Text = FakeModel::Text;
using Texts = std::vector<std::string>;

// Ids 0 to 4 write these; 0 ends the text.
const Texts kPieces = {"<end>", "a", "st", "op", "\xE2"};

Writing writing_of(Writing::Limits limits = {}, std::size_t n_ctx = 64, Text prompt = {1, 2}) {
    colm::Deciders deciders{colm::make_training_free_head("never"), colm::Policy(colm::PolicyOptions{}),
                            colm::Mixer(colm::StrategyOptions{}), std::make_unique<TestSampler>(Job{})};
    return Writing(
        std::move(prompt), n_ctx, std::move(deciders), std::move(limits),
        [](const Step& step) { return kPieces.at(static_cast<std::size_t>(step.token)); },
        [](const Step& step) { return step.token == 0; });
}

void write(Writing& writing, Token token) {
    Step step;
    step.token = token;
    step.expert = kAssistant;
    append(step, writing.sequence(), writing.deciders());
    writing.take(step);
}

Texts texts(Writing& writing) {
    Texts all;
    while (!writing.empty()) all.push_back(writing.pop().text);
    return all;
}

}  // namespace

TEST_CASE("writing: is full after max tokens") {
    Writing writing = writing_of({2, {}});
    REQUIRE_EQ(writing.sequence().n_prompt, 2);
    for (int i = 0; i < 2; ++i) {
        writing.end_if_full();
        REQUIRE(!writing.finished());
        REQUIRE_EQ(writing.finish_reason(), FinishReason::none);
        write(writing, 1);
    }
    writing.end_if_full();
    REQUIRE_EQ(writing.finish_reason(), FinishReason::length);
    REQUIRE_EQ(texts(writing), (Texts{"a", "a"}));
    REQUIRE_EQ(writing.sequence().tokens, (Text{1, 2, 1, 1}));
    REQUIRE_EQ(writing.sequence().stats.n_deferred, 2);

    Writing none = writing_of({0, {}});
    none.end_if_full();
    REQUIRE_EQ(none.finish_reason(), FinishReason::length);
}

TEST_CASE("writing: ends at a control token that is a stop string") {
    // Token 4 stands for a byte that is no character yet; as a stop token it ends the text all the same.
    Writing::Limits limits;
    limits.stop = {"stop"};
    limits.stop_tokens = {{3}};
    Writing writing = writing_of(limits);
    write(writing, 1);
    write(writing, 2);  // held back: "stop" may follow
    REQUIRE(!writing.finished());
    write(writing, 3);
    REQUIRE_EQ(writing.finish_reason(), FinishReason::stop);
    Writing other = writing_of(limits);
    write(other, 1);
    write(other, 0);
    REQUIRE_EQ(other.finish_reason(), FinishReason::eos);
}

TEST_CASE("writing: is full where the context is") {
    for (const int max_tokens : {-1, 128}) {
        Writing writing = writing_of({max_tokens, {}}, 3);
        writing.end_if_full();
        REQUIRE(!writing.finished());
        write(writing, 1);
        writing.end_if_full();
        REQUIRE_EQ(writing.finish_reason(), FinishReason::length);
    }
}

TEST_CASE("writing: ends at eos and lets go of what waited") {
    Writing writing = writing_of({128, {"stop"}});
    write(writing, 2);
    REQUIRE(writing.empty());  // it may become "stop"
    REQUIRE(!writing.end_step());
    write(writing, 0);
    REQUIRE_EQ(writing.finish_reason(), FinishReason::eos);
    REQUIRE_EQ(texts(writing), (Texts{"st"}));
    REQUIRE_EQ(writing.end_step()->token, 0);
    REQUIRE_EQ(writing.end_step()->expert, kAssistant);
}

TEST_CASE("writing: ends at a stop string") {
    Writing writing = writing_of({128, {"stop"}});
    write(writing, 1);
    write(writing, 2);
    REQUIRE(!writing.finished());
    write(writing, 3);
    REQUIRE_EQ(writing.finish_reason(), FinishReason::stop);
    REQUIRE_EQ(texts(writing), (Texts{"a", "", ""}));
    REQUIRE(!writing.end_step());
}

TEST_CASE("writing: that failed lets nothing more go") {
    Writing writing = writing_of({128, {"stop"}});
    write(writing, 1);
    write(writing, 2);
    writing.finish(FinishReason::failed);
    REQUIRE_EQ(writing.finish_reason(), FinishReason::failed);
    REQUIRE_EQ(texts(writing), (Texts{"a"}));
    // Cancelled, what was held back is all there is.
    Writing cancelled = writing_of({128, {"stop"}});
    write(cancelled, 2);
    write(cancelled, 4);
    cancelled.finish(FinishReason::cancelled);
    REQUIRE_EQ(texts(cancelled), (Texts{"st", "\xEF\xBF\xBD"}));
}

TEST_CASE("writing: checks its arguments") {
    REQUIRE_THROWS_WITH_AS(writing_of({-2, {}}), doctest::Contains("max_tokens is -2"), colm::OptionError);
    REQUIRE_THROWS_WITH_AS(writing_of({1, {""}}), doctest::Contains("stop string is empty"),
                           colm::OptionError);
    REQUIRE_THROWS_WITH_AS(writing_of({}, 64, {}), doctest::Contains("no tokens"), colm::TokenizeError);
    REQUIRE_THROWS_WITH_AS(writing_of({}, 1),
                           doctest::Contains("the prompt has 2 tokens and the context holds 1"),
                           colm::ContextFull);
    writing_of({}, 2);
}
