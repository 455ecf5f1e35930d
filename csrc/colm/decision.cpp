#include "colm/decision.h"

#include <limits>

#include "colm/error.h"

namespace colm {

Decision::Decision(const Sequence& sequence, Router& router, const Choices& choices)
    : router_(router), choices_(choices), held_(router.policy.holds()) {
    step_.threshold = router.policy.threshold_at(sequence.n_generated(), sequence.stats.n_deferred);
    input_.position = sequence.tokens.size();
    input_.seed = router.seed;
    const bool mixes = router.mixer.needs_base();
    asks_head_ = !held_ || mixes || !router.head->needs_base();
    needs_base_ = mixes || (asks_head_ && router.head->needs_base());
    if (!asks_head_)
        step_.defer_logit = std::numeric_limits<double>::quiet_NaN();
    else if (!needs_base_) {
        step_.defer_logit = router.head->defer_logit(input_);
        needs_base_ = !defers();
    }
}

Routed Decision::route(const Output& output, std::size_t k) const {
    // Ids of a tail are beyond the view; the deferral token and padding inside it are put out of reach in
    // place.
    constexpr float kNever = -std::numeric_limits<float>::infinity();
    for (const Token token : choices_.blocked) output.logits[static_cast<std::size_t>(token)] = kNever;
    const Token defer_token = router_.head->defer_token();
    if (defer_token != kNoToken && static_cast<std::size_t>(defer_token) < choices_.n_shared)
        output.logits[static_cast<std::size_t>(defer_token)] = kNever;
    const View<const float> logits{output.logits.data, choices_.n_shared};
    return {logits, summarize(logits, k)};
}

void Decision::hear_base(const Output& output) {
    const Head& head = *router_.head;
    if (head.defer_token() != kNoToken)
        input_.token_logit = output.logits[static_cast<std::size_t>(head.defer_token())];
    base_ = route(output, head.n_top_logits());
    input_.hidden = output.hidden;
    input_.distribution = &base_.distribution;
    if (asks_head_) step_.defer_logit = head.defer_logit(input_);
}

bool Decision::defers() const {
    if (!asks_head_) return true;
    const bool defers = Policy::defers(step_.defer_logit, step_.threshold);  // refuses a z that is NaN
    return held_ || defers;
}

Token Decision::sample(const Routed& routed) {
    return router_.sampler->choose(routed.logits, routed.distribution, input_.position);
}

Step Decision::draft() {
    Step step = step_;
    step.source = Source::assistant;
    step.token = sample(base_);
    return step;
}

void Decision::keep_base() {
    if (!router_.mixer.needs_base()) return;
    kept_.assign(base_.logits.begin(), base_.logits.end());
    base_.logits = {kept_.data(), kept_.size()};
}

Step Decision::choose() { return chosen(sample(base_), base_); }

Step Decision::choose(const Output& output) {
    step_.source = Source::assistant;
    const Routed assistant = route(output, 0);
    const Routed routed = router_.mixer.mix(base_, assistant, step_.defer_logit);
    const Token token = sample(routed);
    if (token == kNoToken && router_.mixer.strategy() == Strategy::contrastive)
        // The plausibility cutoff left nothing that the grammar or a ban allows.
        return chosen(sample(assistant), assistant);
    return chosen(token, routed);
}

Step Decision::chosen(Token token, const Routed& routed) {
    if (token == kNoToken) throw GenerationError(router_.sampler->why_none());
    step_.token = token;
    step_.logprob = routed.logits[static_cast<std::size_t>(token)] - routed.distribution.log_normalizer;
    step_.top_logprobs = top_logprobs(routed.logits, routed.distribution, router_.n_logprobs);
    return step_;
}

void append(const Step& step, Sequence& sequence, Router& router) {
    router.sampler->accept(step.token);
    sequence.tokens.push_back(step.token);
    if (step.source == Source::assistant) ++sequence.stats.n_deferred;
    router.policy.observe(step.defer_logit, step.source == Source::assistant);
}

}  // namespace colm
