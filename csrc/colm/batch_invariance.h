// Whether a token's output depends on what is read in the same pass.
#pragma once

#include <cstddef>

#include "colm/language_model.h"

namespace colm {

// How many tokens a pass may hold, `most` at most, so that each one's logits and hidden state are what they
// are when it is read alone, bit for bit. Kernels for many rows round otherwise than those for one, from a
// size on that depends on the machine and on the weights' types, so this reads a few tokens in both ways and
// compares. The model must not cut so long a batch into passes: nothing would differ. 1 of a model that
// cannot go back, which cannot be asked twice. The model holds nothing afterwards.
std::size_t invariant_batch(LanguageModel& model, std::size_t most, Interrupt& interrupt);

}  // namespace colm
