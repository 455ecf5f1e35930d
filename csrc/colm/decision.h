// One position of one text: which expert writes the token, and which token. The loop asks the experts; what
// follows from their predictions is decided here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "colm/expert.h"
#include "colm/head.h"
#include "colm/policy.h"
#include "colm/sampler.h"
#include "colm/sequence.h"
#include "colm/strategy.h"

namespace colm {

// What decides one text's tokens.
struct Deciders {
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
    Decision(const Sequence& sequence, Deciders& deciders, const Choices& choices);
    Decision(const Decision&) = delete;
    Decision& operator=(const Decision&) = delete;

    // Whether the base has to be asked first; its prediction then goes to hear_base(), and is borrowed until
    // choose(), draft() or keep_base(). Where another expert holds its turn, it need not be.
    bool needs_base() const { return needs_base_; }
    void hear_base(const Prediction& prediction);

    // Who writes the token. Requires what needs_base() asks for.
    ExpertId expert() const;
    bool defers() const { return expert() != kBase; }
    // Log-odds of the base's likeliest token. Requires hear_base().
    double base_log_odds() const { return base_.distribution.log_odds(); }
    Token base_top() const { return base_.distribution.top; }

    // The base's draft for a deferred position: the step as it will be if the expert chooses the same token,
    // without log-probabilities. Its token is kNoToken where the base has none. Requires hear_base().
    Step draft();
    // Copies what choose(prediction) needs of the base's prediction.
    void keep_base();

    // The token that stays with the base, or the expert's. Throws GenerationError where none is allowed.
    Step choose();
    Step choose(const Prediction& prediction);

  private:
    void score();
    Routed route(const Prediction& prediction, std::size_t k, std::vector<float>& dense) const;
    Token sample(const Routed& routed);
    Step chosen(Token token, const Routed& routed);

    Deciders& deciders_;
    const Choices& choices_;
    HeadInput input_;
    Routed base_;
    std::vector<float> kept_;     // the base's logits, where they are not borrowed
    std::vector<float> spread_;   // the expert's, where it named the likeliest alone
    std::vector<double> scores_;  // of the assistants
    Step step_;
    bool held_;       // the assistant's token, whatever the head says
    bool asks_head_;  // whether z is known, or will be
    bool needs_base_;
};

// Notes a chosen token in the text and in what follows it.
void append(const Step& step, Sequence& sequence, Deciders& deciders);

}  // namespace colm
