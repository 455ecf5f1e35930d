// A model in this process, which reads many texts at a time. llama.cpp implements it in csrc/llama; the C++
// tests fake it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "colm/interrupt.h"
#include "colm/types.h"

namespace colm {

// One token of a batch: its position, its text, and whether its logits are wanted.
struct BatchToken {
    Token token = kNoToken;
    std::size_t position = 0;
    std::size_t sequence = 0;
    bool output = false;
};

// Borrowed from the model: valid until its next eval_batch(). Logits may be overwritten in place.
struct Output {
    View<float> logits;             // [n_vocab]
    const float* hidden = nullptr;  // [n_embd], after the final norm; null unless wanted
};

class LanguageModel {
  public:
    virtual ~LanguageModel() = default;

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
    virtual void eval_batch(View<const BatchToken> slots, bool hidden, Interrupt& interrupt) = 0;

    // The output of slot `i` of the last batch, which must be an output. Borrowed until the next eval_batch()
    // or clear().
    virtual Output output(std::size_t i) = 0;

    // Whether rewind() keeps a part of a text.
    virtual bool can_rewind() const = 0;
    // Forgets all but the first `n_tokens` tokens of a sequence. Returns how many it kept: n_tokens, or 0
    // where the architecture cannot go back (recurrent state); what the sequence holds is then unknown until
    // go_back() or forget(). Also after an eval_batch() that threw, of what the sequence held before it.
    virtual std::size_t rewind(std::size_t sequence, std::size_t n_tokens) = 0;
    // Of a model that cannot rewind: what later tokens overwrite, as bytes. With them a sequence that still
    // begins with the `n_tokens` tokens it held then goes back to them. Empty, and false, where llama.cpp
    // cannot.
    virtual std::vector<std::uint8_t> checkpoint(std::size_t) { return {}; }
    virtual bool go_back(std::size_t, std::size_t /*n_tokens*/, const std::vector<std::uint8_t>&) {
        return false;
    }

    // A sequence as bytes, and back into a sequence that holds nothing: `n_tokens` tokens. Empty, and false,
    // where llama.cpp cannot.
    virtual std::vector<std::uint8_t> save(std::size_t sequence) = 0;
    virtual bool restore(std::size_t sequence, std::size_t n_tokens,
                         const std::vector<std::uint8_t>& bytes) = 0;

    // Gives sequence `to`, which holds nothing, the first `n_tokens` tokens of sequence `from`. Returns how
    // many it has: n_tokens, or 0 where the architecture cannot hold a part of a text (recurrent state).
    virtual std::size_t copy(std::size_t from, std::size_t to, std::size_t n_tokens) = 0;

    // Forgets the text of one sequence, or every text.
    virtual void forget(std::size_t sequence) = 0;
    virtual void clear() = 0;
};

}  // namespace colm
