#include "colm/decision.h"

#include <algorithm>
#include <limits>

#include "colm/error.h"

namespace colm {

Decision::Decision(const Sequence& sequence, Deciders& deciders, const Choices& choices)
    : deciders_(deciders),
      choices_(choices),
      scores_(deciders.head->n_scores()),
      held_(deciders.policy.holds()) {
    step_.threshold = deciders.policy.threshold_at(sequence.n_generated(), sequence.stats.n_deferred);
    input_.position = sequence.tokens.size();
    input_.seed = deciders.seed;
    const bool mixes = deciders.mixer.needs_base();
    asks_head_ = !held_ || mixes || !deciders.head->needs_base();
    needs_base_ = mixes || (asks_head_ && deciders.head->needs_base());
    if (!asks_head_)
        step_.defer_logit = std::numeric_limits<double>::quiet_NaN();
    else if (!needs_base_) {
        score();
        needs_base_ = !defers();
    }
}

void Decision::score() {
    deciders_.head->score(input_, scores_.data());
    step_.defer_logit = *std::max_element(scores_.begin(), scores_.end());
}

ExpertId Decision::expert() const {
    // Who holds the turn keeps it; a z that is NaN is refused all the same.
    if (asks_head_ && !Policy::defers(step_.defer_logit, step_.threshold) && !held_) return kBase;
    const auto best = std::max_element(scores_.begin(), scores_.end()) - scores_.begin();
    return static_cast<ExpertId>(1 + best);
}

// A prediction as logits of all ids. Of one that names the likeliest alone, the others are out of reach.
Routed Decision::route(const Prediction& prediction, std::size_t k, std::vector<float>& dense) const {
    if (prediction.logits.data != nullptr) return {prediction.logits, summarize(prediction.logits, k)};
    dense.assign(choices_.n_shared, -std::numeric_limits<float>::infinity());
    for (const Candidate& candidate : prediction.likeliest)
        dense[static_cast<std::size_t>(candidate.token)] = candidate.logit;
    return {{dense.data(), dense.size()}, summarize(prediction.likeliest, prediction.tail, k)};
}

void Decision::hear_base(const Prediction& prediction) {
    const Head& head = *deciders_.head;
    input_.token_logit = prediction.probe_logit;
    base_ = route(prediction, head.n_top_logits(), kept_);
    input_.hidden = prediction.hidden;
    input_.distribution = &base_.distribution;
    if (asks_head_) score();
}

Token Decision::sample(const Routed& routed) {
    return deciders_.sampler->choose(routed.logits, routed.distribution, input_.position);
}

Step Decision::draft() {
    Step step = step_;
    step.expert = expert();
    step.token = sample(base_);
    return step;
}

void Decision::keep_base() {
    if (!deciders_.mixer.needs_base() || base_.logits.data == kept_.data()) return;
    kept_.assign(base_.logits.begin(), base_.logits.end());
    base_.logits = {kept_.data(), kept_.size()};
}

Step Decision::choose() { return chosen(sample(base_), base_); }

Step Decision::choose(const Prediction& prediction) {
    step_.expert = expert();
    const Routed assistant = route(prediction, 0, spread_);
    const Routed routed = deciders_.mixer.mix(base_, assistant, step_.defer_logit);
    const Token token = sample(routed);
    if (token == kNoToken && deciders_.mixer.strategy() == Strategy::contrastive)
        // The plausibility cutoff left nothing that the grammar or a ban allows.
        return chosen(sample(assistant), assistant);
    return chosen(token, routed);
}

Step Decision::chosen(Token token, const Routed& routed) {
    if (token == kNoToken) throw GenerationError(deciders_.sampler->why_none());
    step_.token = token;
    step_.logprob = routed.logits[static_cast<std::size_t>(token)] - routed.distribution.log_normalizer;
    step_.top_logprobs = top_logprobs(routed.logits, routed.distribution, deciders_.n_logprobs);
    return step_;
}

void append(const Step& step, Sequence& sequence, Deciders& deciders) {
    deciders.sampler->accept(step.token);
    sequence.tokens.push_back(step.token);
    if (step.expert != kBase) ++sequence.stats.n_deferred;
    deciders.policy.observe(step.defer_logit, step.expert != kBase);
}

}  // namespace colm
