// A model that reads many texts at a time. llama.cpp implements it in csrc/llama.
#pragma once

#include <cstddef>

#include "colm/interrupt.h"
#include "colm/language_model.h"
#include "colm/types.h"

namespace colm {

// One token of a batch: its position, its text, and whether its logits are wanted.
struct Slot {
    Token token = kNoToken;
    std::size_t position = 0;
    std::size_t sequence = 0;
    bool output = false;
};

class BatchModel {
  public:
    virtual ~BatchModel() = default;

    virtual std::size_t n_vocab() const = 0;
    virtual std::size_t n_embd() const = 0;
    // The most tokens of all texts together.
    virtual std::size_t n_ctx() const = 0;
    // The largest batch that eval_batch() takes, and the most outputs in it.
    virtual std::size_t n_batch() const = 0;
    virtual std::size_t n_outputs() const = 0;
    // Texts at a time.
    virtual std::size_t n_sequences() const = 0;

    // Reads `slots`, each after the tokens that its text has so far. With `hidden`, the hidden states are
    // kept too, and then every slot must be an output. Requires sizes within the limits above. Throws
    // Cancelled or GenerationError; what the model holds is then unknown until clear().
    virtual void eval_batch(View<const Slot> slots, bool hidden, Interrupt& interrupt) = 0;

    // The output of slot `i` of the last batch, which must be an output. Borrowed until the next eval_batch()
    // or clear().
    virtual Output output(std::size_t i) = 0;

    // Gives sequence `to`, which holds nothing, the first `n_tokens` tokens of sequence `from`. Returns how
    // many it has: n_tokens, or 0 where the architecture cannot hold a part of a text (recurrent state).
    virtual std::size_t copy(std::size_t from, std::size_t to, std::size_t n_tokens) = 0;

    // Forgets the text of one sequence, or every text.
    virtual void forget(std::size_t sequence) = 0;
    virtual void clear() = 0;
};

}  // namespace colm
