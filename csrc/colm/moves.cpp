#include "colm/moves.h"

#include <algorithm>

#include "colm/error.h"

namespace colm {
namespace {

// Tokens that may lie beyond a text: draft tokens, and what the base wrote behind them.
constexpr std::size_t kMostAhead = 32;

bool has_nan(View<const float> logits) {
    bool found = false;
    for (const float x : logits) found |= x != x;
    return found;
}

}  // namespace

// Does what may fail for this text alone. An error behind an open draft token may belong to a text that is
// never written: the draft goes back, and the expert is asked at once. If the error was real, it occurs
// again.
template <typename Work>
void Moves::attempt(Running& text, const Work& work) {
    try {
        work();
    } catch (const GenerationError&) {
        text.decision.reset();
        damaged_ = true;
        if (text.draft.n_open() == 0) return fail(text);
        text.draft.forget_open(text.deciders());
        text.may_draft = false;
    } catch (...) {
        fail(text);
    }
}

void Moves::fail(Running& text) {
    text.error = std::current_exception();
    text.decision.reset();
    text.writing.finish(FinishReason::failed);
    damaged_ = true;
}

// -- the base

std::optional<Question> Moves::ask_base(Running& text) {
    text.stats().lookahead = text.draft.lookahead() != 0 && can_look_ahead(1);
    if (text.error || text.decision || !may_go_on(text)) return std::nullopt;
    std::optional<Question> question;
    attempt(text, [&] {
        text.decision = std::make_unique<Decision>(text.draft.text(), text.deciders(), choices_);
        // A draft needs the base's choice, whoever decides.
        const bool drafts = text.draft.lookahead() > 0 && text.may_draft && !text.decision->needs_base() &&
                            can_look_ahead(text.decision->expert());
        if (!text.decision->needs_base() && !drafts) return decide(text, false);
        question = text.question(kBase);
        question->counts = {question->tokens->size()};
        text.asked = Asked{kBase, 0, true, true};
    });
    return question;
}

void Moves::hear_base(Running& text, const Answer& answer, double begin) {
    text.asked.reset();
    attempt(text, [&] {
        if (answer.error) std::rethrow_exception(answer.error);
        if (text.stats().base_steps++ == 0) text.stats().prefill_s += now_() - begin;
        text.decision->hear_base(*answer.prediction);
        decide(text, true);
    });
}

// What becomes of a position, once it is known who writes it.
void Moves::decide(Running& text, bool heard_base) {
    Decision& decision = *text.decision;
    Draft& draft = text.draft;
    const ExpertId expert = decision.expert();
    estimates_.position(expert != kBase);
    if (expert == kBase) {
        draft.add(decision.choose(), text.deciders());
        text.decision.reset();
        return;
    }
    const bool fixed = draft.lookahead() != kAutoLookahead;
    if (heard_base && text.may_draft && draft.lookahead() != 0 && can_look_ahead(expert)) {
        const double p = estimates_.acceptance_rate(decision.base_log_odds());
        if (draft.n_open() > 0 || fixed || estimates_.worth_going_on({p}, expert, 1)) {
            const Step step = decision.draft();
            if (step.token != kNoToken)
                return draft.add_draft_token(std::move(text.decision), step, p, text.deciders());
        }
    }
    if (heard_base) decision.keep_base();
}

bool Moves::can_look_ahead(ExpertId expert) const {
    return expert < experts_.size() && experts_[kBase]->goes_back() && experts_[expert]->goes_back() &&
           experts_[expert]->n_counts() >= 2;
}

// Whether the base may read the text's next token.
bool Moves::may_go_on(const Running& text) const {
    const Draft& draft = text.draft;
    if (!draft.can_go_on()) return false;
    if (draft.n_open() == 0) return true;
    const std::size_t most =
        draft.lookahead() == kAutoLookahead ? kMostLookahead : static_cast<std::size_t>(draft.lookahead());
    return draft.n_open() < std::min(most, experts_[draft.first_expert()]->n_counts() - 1) &&
           draft.n_ahead() + 1 < kMostAhead;
}

// -- the other experts

bool Moves::blocked(const Running& text) const {
    if (text.error || text.asked) return false;
    return text.decision || (text.draft.n_open() > 0 && !may_go_on(text));
}

std::optional<Question> Moves::ask(Running& text) {
    if (text.error || text.asked || !text.open()) return std::nullopt;
    std::optional<Question> question;
    attempt(text, [&] {
        Draft& draft = text.draft;
        // Where the next token does not depend on the base, the expert writes it in the same batch.
        if (!text.decision && draft.can_go_on()) {
            auto next = std::make_unique<Decision>(draft.text(), text.deciders(), choices_);
            if (!next->needs_base() && next->expert() == draft.first_expert())
                text.decision = std::move(next);
        }
        Asked asked;
        asked.expert = draft.n_open() > 0 ? draft.first_expert() : text.decision->expert();
        question = text.question(asked.expert);
        if (draft.n_open() > 0) question->counts = draft.open_positions();
        asked.n_open = question->counts.size();
        asked.next = text.decision && asked.n_open == draft.n_open() &&
                     text.decision->expert() == asked.expert &&
                     asked.n_open < experts_[asked.expert]->n_counts();
        if (asked.next) question->counts.push_back(question->tokens->size());
        text.asked = asked;
    });
    return text.asked ? std::move(question) : std::nullopt;
}

void Moves::hear(Running& text, const Answer& answer, double begin, std::size_t n_texts) {
    Asked& asked = *text.asked;
    if (answer.count == 0 && !answer.error && text.stats().assistant_calls++ == 0)
        text.stats().prefill_s += now_() - begin;
    const bool last = answer.error || answer.count + 1 == asked.n_open + (asked.next ? 1 : 0);
    if (!asked.going) {
        // Behind a rejected draft token. What it shows of the cache concerns the other texts all the same.
        damaged_ = damaged_ || (answer.prediction != nullptr && has_nan(answer.prediction->logits));
    } else {
        try {
            hear_open(text, answer, n_texts);
        } catch (const GenerationError&) {
            // The tokens before it are certain all the same. The error comes back when they are written.
            asked.going = false;
            damaged_ = true;
            if (answer.count == 0)
                fail(text);
            else if (text.draft.n_open() > 0)
                text.draft.forget_open(text.deciders());
        } catch (...) {
            asked.going = false;
            fail(text);
        }
        if (!asked.going) text.decision.reset();
    }
    if (last) text.asked.reset();
}

// An answer that counts, because all draft tokens before it were accepted.
void Moves::hear_open(Running& text, const Answer& answer, std::size_t n_texts) {
    Asked& asked = *text.asked;
    if (answer.error) std::rethrow_exception(answer.error);
    if (answer.count > 0) estimates_.shared_call(asked.expert, n_texts);
    if (answer.count == asked.n_open) {
        const Step step = text.decision->choose(*answer.prediction);
        if (text.decision->needs_base())
            estimates_.verified(text.decision->base_log_odds(), step.token == text.decision->base_top());
        text.draft.add(step, text.deciders());
        text.decision.reset();
        return;
    }
    const double log_odds = text.draft.first_log_odds();
    const std::size_t n_risked = text.draft.n_risked() + (text.decision ? 1 : 0);
    asked.going = text.draft.verify(*answer.prediction, text.deciders());
    estimates_.verified(log_odds, asked.going);
    if (!asked.going) estimates_.lost(asked.expert, n_risked);
    ++text.stats().n_drafted;
    if (asked.going) ++text.stats().n_accepted;
}

}  // namespace colm
