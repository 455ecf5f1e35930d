// What the method needs of a model. llama.cpp implements it in csrc/llama; the C++ tests fake it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "colm/interrupt.h"
#include "colm/types.h"

namespace colm {

// What to compute for the last token of a batch.
enum class Want : std::uint8_t { nothing, logits, logits_and_hidden };

// Borrowed from the model: valid until its next eval() or rewind(). Logits may be overwritten in place.
struct Output {
    View<float> logits;             // [n_vocab]
    const float* hidden = nullptr;  // [n_embd], after the final norm; null unless wanted
};

class LanguageModel {
  public:
    virtual ~LanguageModel() = default;

    virtual std::size_t n_vocab() const = 0;
    virtual std::size_t n_embd() const = 0;
    // How many tokens the model can hold.
    virtual std::size_t n_ctx() const = 0;
    // The largest batch that eval() takes, and the most outputs of eval_at().
    virtual std::size_t n_batch() const = 0;
    virtual std::size_t n_outputs() const = 0;

    // Reads `tokens` after the `position` tokens that the model holds.
    // Requires 1 <= tokens.size <= n_batch() and position + tokens.size <= n_ctx(); with the hidden state,
    // tokens.size <= n_outputs() too.
    // Throws Cancelled or GenerationError; what the model holds is then unknown until rewind().
    virtual Output eval(View<const Token> tokens, std::size_t position, Want want, Interrupt& interrupt) = 0;

    // Likewise, keeping the logits after each of the tokens that `wanted` names by their place in the batch,
    // ascending. With `hidden`, the hidden states are kept too, and then every token must be wanted. Requires
    // 1 <= wanted.size <= n_outputs().
    virtual void eval_at(View<const Token> tokens, std::size_t position, View<const std::size_t> wanted,
                         bool hidden, Interrupt& interrupt) = 0;
    // Those after token `i` of the last eval_at().
    virtual Output output(std::size_t i) = 0;

    // Whether rewind() can go back by a few tokens without reading the text again.
    virtual bool can_rewind() const = 0;
    // Forgets all but the first `n_tokens` tokens. Returns how many it kept: n_tokens, or 0 where the
    // architecture cannot go back (recurrent state) and the text has to be read again.
    virtual std::size_t rewind(std::size_t n_tokens) = 0;
};

}  // namespace colm
