// One position of one text: which expert writes the token, and which token. The loop asks the experts; what
// follows from their predictions is decided here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "colm/expert.h"
#include "colm/head.h"
#include "colm/policy.h"
#include "colm/sampler.h"
#include "colm/sequence.h"
#include "colm/strategy.h"

namespace colm {

// Experts that take no part, as bits: the text goes on without those that failed, and passes over those that
// named no token which may follow, at that position.
struct LeftOut {
    std::uint16_t failed = 0;
    std::uint16_t passed = 0;
    std::size_t position = 0;

    static std::uint16_t bit(ExpertId expert) { return static_cast<std::uint16_t>(1U << expert); }
    void leave_out(ExpertId expert) { failed = static_cast<std::uint16_t>(failed | bit(expert)); }
    void pass_over(ExpertId expert, std::size_t at) {
        passed = static_cast<std::uint16_t>((at == position ? passed : 0U) | bit(expert));
        position = at;
    }
    std::uint16_t at(std::size_t n) const {
        return static_cast<std::uint16_t>(failed | (n == position ? passed : 0U));
    }
};

// What decides one text's tokens.
struct Deciders {
    std::shared_ptr<const Head> head;
    Policy policy;
    Mixer mixer;
    std::unique_ptr<Sampler> sampler;
    std::uint32_t seed = 0;
    std::size_t logprobs = 0;
    // By expert: of those with another vocabulary than the base; null: `sampler`.
    std::vector<std::shared_ptr<Sampler>> own_samplers = {};
    LeftOut left_out = {};

    Sampler& sampler_of(ExpertId expert) const {
        return expert < own_samplers.size() && own_samplers[expert] ? *own_samplers[expert] : *sampler;
    }
};

// The ids that can be chosen: those from 0 that all models share, but for the ones that stand for no token.
struct Choices {
    std::size_t n_shared = 0;
    std::vector<Token> blocked;
    // By expert, where the vocabularies are unlike; empty: all have this one.
    std::vector<Choices> own = {};

    const Choices& of(ExpertId expert) const { return own.empty() ? *this : own[expert]; }
};

class Decision {
  public:
    // Of the token that follows `sequence`. All three are borrowed.
    Decision(const Sequence& sequence, Deciders& deciders, const Choices& choices);
    // Of that token, if `writer` writes it.
    Decision(const Sequence& sequence, Deciders& deciders, const Choices& choices, ExpertId writer);
    Decision(const Decision&) = delete;
    Decision& operator=(const Decision&) = delete;

    // Whether the base has to be asked first; its prediction then goes to hear_base(), and is borrowed until
    // choose(), draft() or keep_base(). Where another expert holds its turn, it need not be.
    bool needs_base() const { return needs_base_; }
    void want_base() { needs_base_ = true; }
    void hear_base(const Prediction& prediction);

    // Whose turn it is. Requires what needs_base() asks for.
    ExpertId expert() const;
    bool defers() const { return expert() != kBase; }
    // Whether that expert has to be asked about the token, and was not yet. Beside the one whose turn it is,
    // `compose` asks every one that the head gives a share, and `proxy` the untuned one.
    bool needs(ExpertId expert) const;
    // Log-odds of the base's likeliest token. Requires hear_base().
    double base_log_odds() const { return base_.distribution.log_odds(); }
    Token base_top() const { return base_.distribution.top; }

    // The base's draft for a deferred position: the step as it will be if the experts choose the same token,
    // without log-probabilities. Its token is kNoToken where the base has none. Requires hear_base().
    Step draft();
    // Copies what hear() needs of the base's prediction.
    void keep_base();

    // The token that stays with the base. Throws GenerationError where none is allowed.
    Step choose();
    // The turn stays with who wrote last, whatever the head says.
    void stay_with(ExpertId writer) {
        writer_ = is_left_out(writer) ? kBase : writer;
        step_.waited = true;
    }
    // The token that the expert has chosen, by another decision, before it was known whose turn it is.
    Step confirm(Step step) const;
    // What an expert says that needs() names. The token, once all have been heard. Throws GenerationError
    // where none is allowed, NoneNamed where none is of those that it named.
    std::optional<Step> hear(ExpertId expert, const Prediction& prediction);

  private:
    void score();
    bool is_left_out(ExpertId expert) const { return (left_out_ & LeftOut::bit(expert)) != 0; }
    bool all_left_out() const;
    bool takes_part(ExpertId expert) const;
    Routed route(const Prediction& prediction, std::size_t k, std::vector<float>& dense,
                 ExpertId expert) const;
    Token sample(const Routed& routed, ExpertId expert);
    Step chosen(Token token, const Routed& routed);
    Step mixed(const Routed& routed, const Routed& of_expert);

    // What one of several experts said.
    struct Heard {
        ExpertId expert;
        std::vector<float> logits;
        Routed routed;
    };

    Deciders& deciders_;
    const Choices& choices_;
    HeadInput input_;
    Routed base_;
    std::vector<float> kept_;     // the base's logits, where they are not borrowed
    std::vector<float> spread_;   // an expert's, where it named the likeliest alone
    std::vector<double> scores_;  // of the experts beside the base
    std::vector<double> shares_;  // of a mixture of several: log P(Z = k | Z > 0)
    std::vector<Heard> heard_;    // by expert
    Step step_;
    std::uint16_t left_out_;
    std::optional<ExpertId> writer_;  // whatever the head says
    bool asks_head_;                  // whether z is known, or will be
    bool needs_base_;
    bool names_some_ = false;  // whether the expert named the likeliest alone
};

// Notes a chosen token in the text and in what follows it.
void append(const Step& step, Sequence& sequence, Deciders& deciders);

}  // namespace colm
