#include "colm/decision.h"

#include <algorithm>
#include <limits>
#include <string>

#include "colm/error.h"

namespace colm {

Decision::Decision(const Sequence& sequence, Deciders& deciders, const Choices& choices)
    : Decision(sequence, deciders, choices, deciders.policy.held_by()) {}

Decision::Decision(const Sequence& sequence, Deciders& deciders, const Choices& choices, ExpertId writer)
    : deciders_(deciders),
      choices_(choices),
      scores_(deciders.head->n_scores()),
      left_out_(deciders.left_out.at(sequence.tokens.size())) {
    if (writer != kBase && !is_left_out(writer)) writer_ = writer;
    step_.threshold = deciders.policy.threshold_at(sequence.n_generated(), sequence.stats.n_deferred);
    input_.position = sequence.tokens.size();
    input_.seed = deciders.seed;
    const bool mixes = deciders.mixer.needs_base();
    asks_head_ = !writer_ || mixes || !deciders.head->needs_base();
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
    // Where no expert is left the base writes, and z is what it would be with them.
    for (ExpertId expert = 1; left_out_ != 0 && !all_left_out() && expert <= scores_.size(); ++expert)
        if (is_left_out(expert)) scores_[expert - 1U] = -std::numeric_limits<double>::infinity();
    step_.defer_logit = any_of({scores_.data(), scores_.size()});
    if (scores_.size() < 2 || !deciders_.mixer.needs_all()) return;
    shares_ = scores_;
    shares_of({shares_.data(), shares_.size()});
}

bool Decision::all_left_out() const {
    for (ExpertId expert = 1; expert <= scores_.size(); ++expert)
        if (!is_left_out(expert)) return false;
    return true;
}

ExpertId Decision::expert() const {
    // Who holds the turn keeps it; a z that is NaN is refused all the same.
    const bool defers = !asks_head_ || Policy::defers(step_.defer_logit, step_.threshold);
    if (writer_) return *writer_;
    if (!defers) return kBase;
    const ProxyPair& proxy = deciders_.mixer.proxy_pair();
    if (proxy.tuned != kBase)
        return is_left_out(proxy.tuned) || is_left_out(proxy.untuned) ? kBase : proxy.tuned;
    ExpertId best = kBase;
    for (ExpertId expert = 1; expert <= scores_.size(); ++expert)
        if (!is_left_out(expert) && (best == kBase || scores_[expert - 1U] > scores_[best - 1U]))
            best = expert;
    return best;
}

bool Decision::needs(ExpertId expert) const {
    const ExpertId whose = this->expert();
    if (whose == kBase || expert == kBase) return false;
    for (const Heard& heard : heard_)
        if (heard.expert == expert) return false;
    return expert == whose || takes_part(expert);
}

// Whether an expert's distribution is mixed in where it is another's turn.
bool Decision::takes_part(ExpertId expert) const {
    if (expert == deciders_.mixer.proxy_pair().untuned) return true;
    return !shares_.empty() && shares_[expert - 1U] > -std::numeric_limits<double>::infinity();
}

// A prediction as logits of all ids. Of one that names the likeliest alone, the others are out of reach.
Routed Decision::route(const Prediction& prediction, std::size_t k, std::vector<float>& dense,
                       ExpertId expert) const {
    if (prediction.logits.data != nullptr) return {prediction.logits, summarize(prediction.logits, k)};
    dense.assign(choices_.of(expert).n_shared, -std::numeric_limits<float>::infinity());
    for (const Candidate& candidate : prediction.likeliest) {
        const auto id = static_cast<std::size_t>(candidate.token);  // one below 0 is beyond them, too
        if (id >= dense.size())
            throw GenerationError("expert " + std::to_string(expert) + " named token " +
                                  std::to_string(candidate.token) + "; ids from 0 to " +
                                  std::to_string(dense.size() - 1) + " can be chosen");
        dense[id] = candidate.logit;
    }
    return {{dense.data(), dense.size()}, summarize(prediction.likeliest, prediction.tail, k)};
}

void Decision::hear_base(const Prediction& prediction) {
    const Head& head = *deciders_.head;
    input_.token_logit = prediction.probe_logit;
    base_ = route(prediction, head.n_top_logits(), kept_, kBase);
    input_.hidden = prediction.hidden;
    input_.distribution = &base_.distribution;
    if (asks_head_) score();
}

Token Decision::sample(const Routed& routed, ExpertId expert) {
    return deciders_.sampler_of(expert).choose(routed.logits, routed.distribution, input_.position);
}

Step Decision::draft() {
    Step step = step_;
    step.expert = expert();
    step.token = sample(base_, kBase);
    return step;
}

void Decision::keep_base() {
    if (!deciders_.mixer.needs_base() || base_.logits.data == kept_.data()) return;
    kept_.assign(base_.logits.begin(), base_.logits.end());
    base_.logits = {kept_.data(), kept_.size()};
}

Step Decision::choose() { return chosen(sample(base_, kBase), base_); }

Step Decision::confirm(Step step) const {
    step.defer_logit = step_.defer_logit;
    step.threshold = step_.threshold;
    step.waited = step_.waited;
    return step;
}

std::optional<Step> Decision::hear(ExpertId expert, const Prediction& prediction) {
    step_.expert = this->expert();
    names_some_ = prediction.logits.data == nullptr;
    if (names_some_ && prediction.likeliest.size == 0) throw NoneNamed(expert, input_.position);
    const Routed of_expert = route(prediction, 0, spread_, expert);
    Mixer& mixer = deciders_.mixer;
    const bool proxy = mixer.strategy() == Strategy::proxy;
    if (!proxy && shares_.empty()) return mixed(mixer.mix(base_, of_expert, step_.defer_logit), of_expert);
    const auto before =
        std::find_if(heard_.begin(), heard_.end(), [&](const Heard& h) { return h.expert > expert; });
    Heard& heard = *heard_.insert(before, {expert, {}, of_expert});
    heard.logits.assign(of_expert.logits.begin(), of_expert.logits.end());
    heard.routed.logits = {heard.logits.data(), heard.logits.size()};
    for (ExpertId other = 1; other <= scores_.size(); ++other)
        if (needs(other)) return std::nullopt;
    if (proxy) {
        const bool tuned_first = heard_.front().expert == step_.expert;
        const Routed& tuned = heard_[tuned_first ? 0 : 1].routed;
        return mixed(mixer.proxy(base_, tuned, heard_[tuned_first ? 1 : 0].routed), tuned);
    }
    std::vector<Mixer::Part> parts;
    for (const Heard& part : heard_) parts.push_back({&part.routed, shares_[part.expert - 1U]});
    return mixed(mixer.compose(base_, parts, step_.defer_logit), of_expert);
}

Step Decision::mixed(const Routed& routed, const Routed& of_expert) {
    const Token token = sample(routed, step_.expert);
    if (token == kNoToken && deciders_.mixer.strategy() == Strategy::contrastive)
        // The plausibility cutoff left nothing that the grammar or a ban allows.
        return chosen(sample(of_expert, step_.expert), of_expert);
    return chosen(token, routed);
}

Step Decision::chosen(Token token, const Routed& routed) {
    if (token == kNoToken && names_some_) throw NoneNamed(step_.expert, input_.position);
    if (token == kNoToken) throw GenerationError(deciders_.sampler_of(step_.expert).why_none());
    step_.token = token;
    step_.logprob = routed.logits[static_cast<std::size_t>(token)] - routed.distribution.log_normalizer;
    step_.top_logprobs = top_logprobs(routed.logits, routed.distribution, deciders_.logprobs);
    return step_;
}

void append(const Step& step, Sequence& sequence, Deciders& deciders) {
    deciders.sampler_of(step.expert).accept(step.token);
    sequence.tokens.push_back(step.token);
    if (step.expert != kBase) ++sequence.stats.n_deferred;
    deciders.policy.observe(step.defer_logit, step.expert, step.waited);
}

}  // namespace colm
