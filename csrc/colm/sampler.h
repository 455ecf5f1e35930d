// From the routed logits to a token. The chain of samplers itself is llama.cpp's (csrc/llama/sampler.h).
#pragma once

#include <string>

#include "colm/distribution.h"
#include "colm/types.h"

namespace colm {

class Sampler {
  public:
    virtual ~Sampler() = default;

    // Chooses one of the ids whose logit is above -inf, or returns kNoToken where none of them is allowed.
    virtual Token choose(View<const float> logits, const Distribution& distribution) = 0;

    // Why choose() found none, and what to do.
    virtual std::string why_none() const = 0;

    // Tells penalties and grammar which token the text continues with.
    virtual void accept(Token token) = 0;
};

}  // namespace colm
