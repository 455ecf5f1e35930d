// One model of a pair by itself: what it says about the token behind others, whoever may write it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "colm/head.h"
#include "colm/local_expert.h"
#include "llama/model.h"
#include "llama/vocabularies.h"

namespace colm::llama {

class TextReader {
  public:
    // With a context of its own for one text, on the weights of a loaded model. They stay when the others go.
    // Throws OptionError, LoadError.
    TextReader(const LlamaModel& model, const Vocabularies& vocabularies, ExpertId expert);

    struct Said {
        std::vector<float> logprobs;  // of each id, natural logarithms; -inf: it cannot be chosen
        std::vector<double> scores;   // z of each expert, by the head; empty without one
    };
    // Of the token behind `tokens`. A head looks at the base, so with one the model must be that. Tokens that
    // the last call had at its beginning are not read again. Throws TokenizeError, ContextFull,
    // GenerationError, Cancelled.
    Said after(const std::vector<Token>& tokens, const Head* head, std::uint32_t seed,
               std::function<bool()> poll_interrupt);

    // What each id writes, as bytes; "" for control tokens.
    std::vector<std::string> pieces() const;

  private:
    LlamaModel& model() { return static_cast<LlamaModel&>(expert_.model()); }
    void check(const std::vector<Token>& tokens) const;

    std::size_t n_ids_;
    std::vector<Token> blocked_;
    LocalExpert expert_;
};

}  // namespace colm::llama
