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

// Whether an error may come from what caches hold. Where an expert has no room for its context, nothing was
// read.
bool may_be_damage(const std::exception_ptr& error) {
    try {
        std::rethrow_exception(error);
    } catch (const NotEnoughMemory&) {
        return false;
    } catch (...) {
        return true;
    }
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
        text.next = {};
        note_damage(std::current_exception());
        if (text.draft.n_open() > 0) {
            text.draft.forget_open(text.deciders());
            text.may_draft = false;
        } else if (!text.draft.ready()) {
            fail(text);
        }
    } catch (...) {
        fail(text);
    }
}

void Moves::fail(Running& text) {
    text.error = std::current_exception();
    text.next = {};
    text.writing.finish(FinishReason::failed);
    note_damage(text.error);
}

void Moves::note_damage(const std::exception_ptr& error) { damaged_ = damaged_ || may_be_damage(error); }

// -- the base

std::optional<Question> Moves::ask_base(Running& text) {
    text.stats().lookahead = text.draft.lookahead() != 0 && can_look_ahead();
    if (text.error || text.next.decision || !may_go_on(text)) return std::nullopt;
    std::optional<Question> question;
    attempt(text, [&] {
        Draft& draft = text.draft;
        Decision& decision =
            *(text.next.decision = std::make_unique<Decision>(draft.text(), text.deciders(), choices_));
        const SharedText* shared = text.writing.shared();
        if (shared != nullptr && must_propose(text)) {
            text.next.decision =
                std::make_unique<Decision>(draft.text(), text.deciders(), choices_, shared->writer());
            text.next.proposes = true;
            return;
        }
        // Where the base's next token says where a word ends, it is asked, whatever the head needs.
        if (shared != nullptr && shared->begun() && !decision.needs_base() && !text.proposed &&
            !shared->same_vocabulary(shared->writer(), decision.expert()))
            decision.want_base();
        // A draft needs the base's choice, whoever decides.
        const bool drafts = draft.lookahead() > 0 && text.may_draft && !decision.needs_base() &&
                            can_look_ahead(decision.expert());
        if (!decision.needs_base() && !drafts) return decide(text, false);
        question = text.question(kBase, {draft.text().tokens.size()});
        text.asked[kBase].next = true;
    });
    return question;
}

void Moves::hear_base(Running& text, const Answer& answer, double begin) {
    text.asked.erase(kBase);
    attempt(text, [&] {
        if (answer.error) std::rethrow_exception(answer.error);
        if (text.stats().of(kBase).calls++ == 0) text.stats().prefill_s += now_() - begin;
        text.next.decision->hear_base(*answer.prediction);
        decide(text, true);
    });
}

// What becomes of a position, once it is known who writes it.
void Moves::decide(Running& text, bool heard_base) {
    Decision& decision = *text.next.decision;
    Draft& draft = text.draft;
    choose_writer(text, heard_base);
    const ExpertId expert = decision.expert();
    estimates_.position(expert != kBase);
    if (text.proposed && expert == text.proposed->expert)
        return write(text, decision.confirm(*text.proposed));
    if (expert == kBase) return write(text, decision.choose());
    const bool fixed = draft.lookahead() != kAutoLookahead;
    if (heard_base && text.may_draft && draft.lookahead() != 0 && can_look_ahead(expert)) {
        const double p = estimates_.acceptance_rate(decision.base_log_odds());
        if (draft.n_open() > 0 || fixed || estimates_.worth_going_on({p}, expert, 1)) {
            const Step step = decision.draft();
            if (step.token != kNoToken)
                return draft.add_draft_token(std::move(text.next.decision), step, p, text.deciders());
        }
    }
    if (heard_base) decision.keep_base();
}

// A token is certain, or will be: it goes to the draft, and to who reads the text in other tokens.
void Moves::write(Running& text, Step step) {
    text.next = {};
    text.proposed.reset();
    text.draft.add(step, text.deciders());
    SharedText* shared = text.writing.shared();
    if (shared == nullptr) return;
    if (step.waited) ++text.stats().n_waited;
    const std::string bytes = shared->add(step.token, step.expert);
    std::vector<const Sampler*> told = {&text.deciders().sampler_of(step.expert)};
    for (ExpertId expert = 0; expert < experts_.size(); ++expert) {
        text.stats().of(expert).tokens_reread = shared->n_reread(expert);
        Sampler& sampler = text.deciders().sampler_of(expert);
        if (std::find(told.begin(), told.end(), &sampler) != told.end()) continue;
        sampler.follow(bytes, shared->written(expert));
        told.push_back(&sampler);
    }
}

// Whether the expert that wrote last has to say how it would go on, before the base reads the text. That
// tells whether the text ends where a token of the base's ends.
bool Moves::must_propose(const Running& text) const {
    const SharedText& shared = *text.writing.shared();
    const Decision& decision = *text.next.decision;
    if (text.proposed || shared.same_vocabulary(kBase, shared.writer())) return false;
    return decision.needs_base() || decision.expert() != shared.writer();
}

// Unlike vocabularies: a text that ends inside a token of the expert whose turn it is stays with who wrote
// last. For the base that was asked with the proposal.
void Moves::choose_writer(Running& text, bool heard_base) {
    const SharedText* shared = text.writing.shared();
    Decision& decision = *text.next.decision;
    if (shared == nullptr || decision.expert() == kBase || decision.expert() == shared->writer()) return;
    Token next = kNoToken;
    if (text.proposed)
        next = text.proposed->token;
    else if (heard_base)
        next = decision.draft().token;
    if (!shared->may_take_over(decision.expert(), next)) decision.stay_with(shared->writer());
}

bool Moves::can_look_ahead(ExpertId expert) const {
    return expert < experts_.size() && experts_[kBase]->goes_back() && experts_[expert]->goes_back() &&
           experts_[expert]->n_counts() >= 2;
}

bool Moves::can_look_ahead() const {
    for (ExpertId expert = 1; expert < experts_.size(); ++expert)
        if (can_look_ahead(expert)) return true;
    return false;
}

// Whether the base may read the text's next token.
bool Moves::may_go_on(const Running& text) const {
    const Draft& draft = text.draft;
    if (!draft.can_go_on()) return false;
    if (draft.n_open() == 0) return true;
    std::size_t most =
        draft.lookahead() == kAutoLookahead ? kMostLookahead : static_cast<std::size_t>(draft.lookahead());
    for (ExpertId expert = 1; expert < experts_.size(); ++expert)
        if (can_look_ahead(expert)) most = std::min(most, experts_[expert]->n_counts() - 1);
    return draft.n_open() < most && draft.n_ahead() + 1 < kMostAhead;
}

// -- the other experts

bool Moves::blocked(const Running& text) const {
    if (text.error || text.waiting()) return false;
    return text.next.decision || (text.draft.n_open() > 0 && !may_go_on(text));
}

std::optional<Question> Moves::ask(Running& text, ExpertId expert) {
    if (text.error || text.waits_for(expert) || text.waits_for(kBase) || !text.open()) return std::nullopt;
    std::optional<Question> question;
    attempt(text, [&] {
        Draft& draft = text.draft;
        Asked asked;
        asked.positions = draft.open_positions(expert);
        // Where the next token does not depend on the base, the expert writes it in the same batch.
        if (!text.next.decision && !asked.positions.empty() && draft.can_go_on()) {
            auto next = std::make_unique<Decision>(draft.text(), text.deciders(), choices_);
            if (!next->needs_base() && next->needs(expert)) text.next.decision = std::move(next);
        }
        const std::size_t most = experts_[expert]->n_counts();
        asked.next = text.next.decision && text.next.needs(expert) && asked.positions.size() < most;
        if (asked.positions.size() > most) asked.positions.resize(most);
        if (asked.size() == 0) return;
        std::vector<std::size_t> counts = asked.positions;
        if (asked.next) counts.push_back(draft.text().tokens.size());
        question = text.question(expert, counts);
        text.asked[expert] = std::move(asked);
    });
    return question;
}

void Moves::hear(Running& text, ExpertId expert, const Answer& answer, double begin, std::size_t n_texts) {
    Asked& asked = text.asked.at(expert);
    if (answer.count == 0 && !answer.error && text.stats().of(expert).calls++ == 0)
        text.stats().prefill_s += now_() - begin;
    const bool last = answer.error || answer.count + 1 == asked.size();
    if (!asked.going) {
        // Behind a rejected draft token. What it shows of the cache concerns the other texts all the same.
        damaged_ = damaged_ || (answer.prediction != nullptr && has_nan(answer.prediction->logits));
    } else {
        try {
            hear_open(text, expert, answer, n_texts);
        } catch (const GenerationError&) {
            // The tokens before it are certain all the same. The error comes back when they are written.
            note_damage(std::current_exception());
            if (!text.draft.ready())
                fail(text);
            else if (text.draft.n_open() > 0)
                text.draft.forget_open(text.deciders());
            go_back(text, expert);
        } catch (...) {
            fail(text);
            go_back(text, expert);
        }
    }
    if (last) text.asked.erase(expert);
}

// An answer that counts, because no draft token before it was rejected.
void Moves::hear_open(Running& text, ExpertId expert, const Answer& answer, std::size_t n_texts) {
    const Asked& asked = text.asked.at(expert);
    if (answer.count > 0 && !answer.error) estimates_.shared_call(expert, n_texts);
    if (answer.count < asked.positions.size()) {
        const std::size_t position = asked.positions[answer.count];
        if (const auto error = text.draft.hear(position, expert, answer, text.deciders())) note_damage(error);
    } else {
        text.next.hear(expert, answer);
        if (text.next.error) note_damage(text.next.error);
    }
    settle(text, expert);
}

// What follows from the answers so far, as far as no expert has yet to answer about a token before.
void Moves::settle(Running& text, ExpertId heard) {
    Draft& draft = text.draft;
    while (draft.heard_first()) {
        if (draft.error_of_first()) std::rethrow_exception(draft.error_of_first());
        const double log_odds = draft.first_log_odds();
        const std::size_t n_risked = draft.n_risked() + (text.next.decision ? 1 : 0);
        const ExpertId expert = draft.first_expert();
        const bool accepted = draft.verify(text.deciders());
        estimates_.verified(log_odds, accepted);
        ++text.stats().n_drafted;
        if (!accepted) {
            estimates_.lost(expert, n_risked);
            return go_back(text, heard);
        }
        ++text.stats().n_accepted;
    }
    if (draft.n_open() > 0 || !text.next.decision) return;
    if (text.next.error) std::rethrow_exception(text.next.error);
    if (!text.next.step) return;
    if (text.next.proposes) {
        Step step = *text.next.step;
        step.waited = !text.writing.shared()->may_take_over(kBase, step.token);
        if (step.waited) return write(text, step);
        text.proposed = step;
        text.next = {};
        return;
    }
    const Decision& decision = *text.next.decision;
    if (decision.needs_base())
        estimates_.verified(decision.base_log_odds(), text.next.step->token == decision.base_top());
    write(text, *text.next.step);
}

// After the draft went back: what was asked behind it does not matter any more.
void Moves::go_back(Running& text, ExpertId heard) {
    text.next = {};
    for (auto it = text.asked.begin(); it != text.asked.end();) {
        if (it->first == heard) {
            (it++)->second.going = false;
            continue;
        }
        experts_[it->first]->drop(*text.slot);
        it = text.asked.erase(it);
    }
}

}  // namespace colm
