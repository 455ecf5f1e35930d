#include "llama/text_reader.h"

#include <algorithm>
#include <exception>
#include <memory>
#include <utility>

#include "colm/error.h"
#include "llama/vocab.h"

namespace colm::llama {
namespace {

std::unique_ptr<LlamaModel> with_context(const LlamaModel& model) {
    auto reading = model.for_batches(1, 1);
    reading->make_context();
    return reading;
}

}  // namespace

TextReader::TextReader(const LlamaModel& model, const Vocabularies& vocabularies, ExpertId expert)
    : n_ids_(vocabularies.n_ids(expert)),
      blocked_(vocabularies.blocked(expert)),
      expert_(with_context(model), expert, n_ids_) {}

TextReader::Said TextReader::after(const std::vector<Token>& tokens, const Head* head, std::uint32_t seed,
                                   std::function<bool()> poll_interrupt) {
    check(tokens);
    std::vector<Token> never = blocked_;
    const Token defer_token = head == nullptr ? kNoToken : head->defer_token();
    if (defer_token != kNoToken) {
        never.push_back(defer_token);
        std::sort(never.begin(), never.end());
    }
    Question question;
    question.tokens = &tokens;
    question.counts = {tokens.size()};
    question.hidden = head != nullptr && head->needs_hidden();
    question.probe = defer_token;
    question.excluded = {never.data(), never.size()};
    std::vector<DecodeCall> calls;
    question.calls = &calls;

    Said said;
    std::exception_ptr error;
    bool answered = false;
    const auto hear = [&](const Answer& answer) {
        answered = true;
        error = answer.error;
        if (error) return;
        const Prediction& prediction = *answer.prediction;
        const Distribution all = summarize(prediction.logits, head == nullptr ? 0 : head->n_top_logits());
        for (const float logit : prediction.logits)
            said.logprobs.push_back(static_cast<float>(logit - all.log_normalizer));
        if (head == nullptr) return;
        HeadInput input;
        input.hidden = prediction.hidden;
        input.distribution = &all;
        input.token_logit = prediction.probe_logit;
        input.position = tokens.size();
        input.seed = seed;
        said.scores.resize(head->n_scores());
        head->score(input, said.scores.data());
    };
    Interrupt interrupt(std::move(poll_interrupt));
    expert_.ask({question});
    while (!answered) expert_.collect(true, interrupt, hear);
    if (error) std::rethrow_exception(error);
    return said;
}

std::vector<std::string> TextReader::pieces() const {
    std::vector<std::string> all;
    const auto& model = static_cast<const LlamaModel&>(expert_.model());
    for (std::size_t id = 0; id < n_ids_; ++id)
        all.push_back(piece(model.vocab(), static_cast<Token>(id), false));
    return all;
}

void TextReader::check(const std::vector<Token>& tokens) const {
    if (tokens.empty()) throw TokenizeError("there is no token to read; give at least one");
    for (const Token token : tokens)
        if (token < 0 || static_cast<std::size_t>(token) >= n_ids_)
            throw TokenizeError("there is a token with id " + std::to_string(token) + "; ids from 0 to " +
                                std::to_string(n_ids_ - 1) + " can be chosen");
    if (tokens.size() > expert_.n_ctx())
        throw ContextFull("the text has " + std::to_string(tokens.size()) + " tokens and the context holds " +
                              std::to_string(expert_.n_ctx()) + "; load the pair with a larger n_ctx",
                          static_cast<std::int64_t>(tokens.size()),
                          static_cast<std::int64_t>(expert_.n_ctx()));
}

}  // namespace colm::llama
