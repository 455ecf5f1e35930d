// From the routed logits to a token. The chain of samplers itself is llama.cpp's (csrc/llama/sampler.h).
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "colm/distribution.h"
#include "colm/types.h"

namespace colm {

class Sampler {
  public:
    virtual ~Sampler() = default;

    // Chooses one of the ids whose logit is above -inf for the token after `position` others, or returns
    // kNoToken where none of them is allowed. The choice depends on the logits, the position and the tokens
    // accepted, and on nothing else: two models that agree on the distribution agree on the token.
    virtual Token choose(View<const float> logits, const Distribution& distribution,
                         std::size_t position) = 0;

    // Why choose() found none, and what to do.
    virtual std::string why_none() const = 0;

    // Tells penalties and grammar which token the text continues with.
    virtual void accept(Token token) = 0;

    // The text continues with a token of another vocabulary: its bytes, and all tokens of this vocabulary
    // that now stand for what was written. Samplers that remember nothing do nothing.
    virtual void follow(const std::string& /*bytes*/, View<const Token> /*written*/) {}

    // A copy that has accepted the same tokens; null where what was accepted does not matter.
    virtual std::unique_ptr<Sampler> snapshot() const = 0;
};

}  // namespace colm
