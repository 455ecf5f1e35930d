#include "colm/draft.h"

#include <utility>

#include "colm/error.h"

namespace colm {

void Pending::hear(ExpertId expert, const Answer& answer) {
    try {
        if (answer.error) std::rethrow_exception(answer.error);
        step = decision->hear(expert, *answer.prediction);
    } catch (const GenerationError&) {
        error = std::current_exception();
    }
}

Draft::Draft(const Sequence& sequence, int lookahead, std::size_t limit, EndsText ends_text)
    : lookahead_(lookahead), limit_(limit), ends_text_(std::move(ends_text)) {
    text_.tokens = sequence.tokens;
    text_.n_prompt = sequence.n_prompt;
    text_.stats.n_deferred = sequence.stats.n_deferred;
}

double Draft::confidence() const {
    double p = 1.0;
    for (const Ahead& ahead : ahead_)
        if (ahead.open) p *= ahead.open->p;
    return p;
}

std::vector<std::size_t> Draft::open_positions(ExpertId expert) const {
    std::vector<std::size_t> positions;
    const std::size_t begin = text_.tokens.size() - ahead_.size();
    for (std::size_t i = 0; i < ahead_.size(); ++i)
        if (ahead_[i].open && ahead_[i].open->pending.needs(expert)) positions.push_back(begin + i);
    return positions;
}

void Draft::add(const Step& step, Deciders& deciders) {
    append(step, text_, deciders);
    ended_ = ends_text_(step);
    ahead_.push_back({step, nullptr});
}

void Draft::add_draft_token(std::unique_ptr<Decision> decision, const Step& step, double p,
                            Deciders& deciders) {
    decision->keep_base();
    auto open = std::make_unique<Open>(deciders.sampler->snapshot(), deciders.policy, p);
    open->pending.decision = std::move(decision);
    add(step, deciders);
    ahead_.back().open = std::move(open);
    ++n_open_;
}

std::size_t Draft::first_open() const {
    std::size_t i = 0;
    while (!ahead_[i].open) ++i;
    return i;
}

std::exception_ptr Draft::hear(std::size_t position, ExpertId expert, const Answer& answer,
                               Deciders& deciders) {
    Open& open = *ahead_[position - (text_.tokens.size() - ahead_.size())].open;
    const auto swap = [&] {
        if (open.sampler) std::swap(open.sampler, deciders.sampler);
    };
    swap();
    try {
        open.pending.hear(expert, answer);
    } catch (...) {
        swap();
        throw;
    }
    swap();
    return open.pending.error;
}

bool Draft::heard_first() const {
    if (n_open_ == 0) return false;
    const Pending& first = ahead_[first_open()].open->pending;
    return first.step || first.error;
}

bool Draft::verify(Deciders& deciders) {
    const std::size_t i = first_open();
    const Step step = *ahead_[i].open->pending.step;
    if (step.token == ahead_[i].step.token) {
        ahead_[i] = {step, nullptr};
        --n_open_;
        return true;
    }
    go_back(i, deciders);
    add(step, deciders);
    return false;
}

void Draft::forget_open(Deciders& deciders) { go_back(first_open(), deciders); }

// To the first `n_ahead` tokens beyond the text; the next one is an open draft token.
void Draft::go_back(std::size_t n_ahead, Deciders& deciders) {
    Open& open = *ahead_[n_ahead].open;
    if (open.sampler) deciders.sampler = std::move(open.sampler);
    deciders.policy = open.policy;
    while (ahead_.size() > n_ahead) {
        const Ahead& last = ahead_.back();
        if (last.open) --n_open_;
        if (last.step.expert != kBase) --text_.stats.n_deferred;
        text_.tokens.pop_back();
        ahead_.pop_back();
    }
    ended_ = false;
}

Step Draft::hand_over(Sequence& sequence) {
    Step step = std::move(ahead_.front().step);
    ahead_.pop_front();
    sequence.tokens.push_back(step.token);
    if (step.expert != kBase) ++sequence.stats.n_deferred;
    if (step.waited) ++sequence.stats.n_waited;
    ++sequence.stats.of(step.expert).tokens;
    return step;
}

}  // namespace colm
