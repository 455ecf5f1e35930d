// One position of one text: who writes the token, and which. Engine and Scheduler read the models; what
// follows from the outputs is decided here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "colm/head.h"
#include "colm/language_model.h"
#include "colm/policy.h"
#include "colm/sampler.h"
#include "colm/sequence.h"
#include "colm/strategy.h"

namespace colm {

// What decides one text's tokens.
struct Router {
    std::shared_ptr<const Head> head;
    Policy policy;
    Mixer mixer;
    std::unique_ptr<Sampler> sampler;
    std::uint32_t seed = 0;
    std::size_t n_logprobs = 0;
};

// The ids that can be chosen: those from 0 that both models share, but for the ones that stand for no token.
struct Choices {
    std::size_t n_shared = 0;
    std::vector<Token> blocked;
};

class Decision {
  public:
    // Of the token that follows `sequence`. All three are borrowed.
    Decision(const Sequence& sequence, Router& router, const Choices& choices);
    Decision(const Decision&) = delete;
    Decision& operator=(const Decision&) = delete;

    // Whether the base has to read the text first; its output then goes to hear_base(). Where the assistant
    // holds its turn, it need not.
    bool needs_base() const { return needs_base_; }
    // Logits are changed in place; they are borrowed until choose() where the assistant is mixed with them,
    // and where the token is not deferred.
    void hear_base(const Output& output);

    // Whether the assistant has to read the text before choose(). Requires what needs_base() asks for.
    bool defers() const;
    // Log-odds of the base's likeliest token. Requires hear_base().
    double base_log_odds() const { return base_.distribution.log_odds(); }
    Token base_top() const { return base_.distribution.top; }

    // The base's draft for a deferred position: the step as it will be if the assistant accepts it, without
    // log-probabilities. Its source is the assistant. Its token is kNoToken where the base has none. Requires
    // hear_base().
    Step draft();
    // Copies what choose(assistant) needs of the base's output, which is borrowed otherwise.
    void keep_base();

    // The token that stays with the base, or is deferred. Throws GenerationError where none is allowed.
    Step choose();
    Step choose(const Output& assistant);

  private:
    Routed route(const Output& output, std::size_t k) const;
    Token sample(const Routed& routed);
    Step chosen(Token token, const Routed& routed);

    Router& router_;
    const Choices& choices_;
    HeadInput input_;
    Routed base_;
    std::vector<float> kept_;
    Step step_;
    bool held_;       // the assistant's token, whatever the head says
    bool asks_head_;  // whether z is known, or will be
    bool needs_base_;
};

// Notes a chosen token in the text and in what follows it.
void append(const Step& step, Sequence& sequence, Router& router);

}  // namespace colm
