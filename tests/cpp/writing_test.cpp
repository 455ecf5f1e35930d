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

Writing make(Writing::Limits limits = {}, std::size_t n_ctx = 64, Text prompt = {1, 2}) {
    colm::Deciders deciders{colm::make_training_free_head("never"), colm::Policy(colm::PolicyOptions{}),
                            colm::Mixer(colm::StrategyOptions{}), std::make_unique<TestSampler>(Job{})};
    return Writing(
        std::move(prompt), n_ctx, std::move(deciders), std::move(limits),
        [](Token token) { return kPieces.at(static_cast<std::size_t>(token)); },
        [](Token token) { return token == 0; });
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

TEST(writing_is_full_after_max_tokens) {
    Writing writing = make({2, {}});
    CHECK_EQ(writing.sequence().n_prompt, 2);
    for (int i = 0; i < 2; ++i) {
        writing.end_if_full();
        CHECK(!writing.finished());
        CHECK_EQ(writing.finish_reason(), FinishReason::none);
        write(writing, 1);
    }
    writing.end_if_full();
    CHECK_EQ(writing.finish_reason(), FinishReason::length);
    CHECK_EQ(texts(writing), (Texts{"a", "a"}));
    CHECK_EQ(writing.sequence().tokens, (Text{1, 2, 1, 1}));
    CHECK_EQ(writing.sequence().stats.n_deferred, 2);

    Writing none = make({0, {}});
    none.end_if_full();
    CHECK_EQ(none.finish_reason(), FinishReason::length);
}

TEST(writing_ends_at_a_control_token_that_is_a_stop_string) {
    // Token 4 stands for a byte that is no character yet; as a stop token it ends the text all the same.
    Writing::Limits limits;
    limits.stop = {"stop"};
    limits.stop_tokens = {3};
    Writing writing = make(limits);
    write(writing, 1);
    write(writing, 2);  // held back: "stop" may follow
    CHECK(!writing.finished());
    write(writing, 3);
    CHECK_EQ(writing.finish_reason(), FinishReason::stop);
    Writing other = make(limits);
    write(other, 1);
    write(other, 0);
    CHECK_EQ(other.finish_reason(), FinishReason::eos);
}

TEST(writing_is_full_where_the_context_is) {
    for (const int max_tokens : {-1, 128}) {
        Writing writing = make({max_tokens, {}}, 3);
        writing.end_if_full();
        CHECK(!writing.finished());
        write(writing, 1);
        writing.end_if_full();
        CHECK_EQ(writing.finish_reason(), FinishReason::length);
    }
}

TEST(writing_ends_at_eos_and_lets_go_of_what_waited) {
    Writing writing = make({128, {"stop"}});
    write(writing, 2);
    CHECK(writing.empty());  // it may become "stop"
    CHECK(!writing.end_step());
    write(writing, 0);
    CHECK_EQ(writing.finish_reason(), FinishReason::eos);
    CHECK_EQ(texts(writing), (Texts{"st"}));
    CHECK_EQ(writing.end_step()->token, 0);
    CHECK_EQ(writing.end_step()->expert, kAssistant);
}

TEST(writing_ends_at_a_stop_string) {
    Writing writing = make({128, {"stop"}});
    write(writing, 1);
    write(writing, 2);
    CHECK(!writing.finished());
    write(writing, 3);
    CHECK_EQ(writing.finish_reason(), FinishReason::stop);
    CHECK_EQ(texts(writing), (Texts{"a", "", ""}));
    CHECK(!writing.end_step());
}

TEST(writing_that_failed_lets_nothing_more_go) {
    Writing writing = make({128, {"stop"}});
    write(writing, 1);
    write(writing, 2);
    writing.finish(FinishReason::failed);
    CHECK_EQ(writing.finish_reason(), FinishReason::failed);
    CHECK_EQ(texts(writing), (Texts{"a"}));
    // Cancelled, what was held back is all there is.
    Writing cancelled = make({128, {"stop"}});
    write(cancelled, 2);
    write(cancelled, 4);
    cancelled.finish(FinishReason::cancelled);
    CHECK_EQ(texts(cancelled), (Texts{"st", "\xEF\xBF\xBD"}));
}

TEST(writing_checks_its_arguments) {
    CHECK_THROWS(colm::OptionError, make({-2, {}}), "max_tokens is -2");
    CHECK_THROWS(colm::OptionError, make({1, {""}}), "stop string is empty");
    CHECK_THROWS(colm::TokenizeError, make({}, 64, {}), "no tokens");
    CHECK_THROWS(colm::ContextFull, make({}, 1), "the prompt has 2 tokens and the context holds 1");
    make({}, 2);
}
