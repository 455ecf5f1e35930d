#include "colm/moves.h"

#include <algorithm>
#include <iterator>

#include "colm/error.h"

namespace colm {
namespace {

// Tokens that may lie beyond a text: draft tokens, and what the base wrote behind them.
constexpr std::size_t kMostAhead = 32;

template <typename Kind>
bool is(const std::exception_ptr& error) {
    if (!error) return false;
    try {
        std::rethrow_exception(error);
    } catch (const Kind&) {
        return true;
    } catch (...) {
        return false;
    }
}

bool has_nan(View<const float> logits) {
    bool found = false;
    for (const float x : logits) found |= x != x;
    return found;
}

// Whether an error may come from what caches hold. Where an expert has no room for its context, nothing was
// read.
bool may_be_damage(const std::exception_ptr& error) {
    return !is<RemoteError>(error) && !is<NotEnoughMemory>(error) && !is<NoneNamed>(error);
}

}  // namespace

// Does what may fail for this text alone. An error behind an open draft token may belong to a text that is
// never written: the draft goes back, and the expert is asked at once. A real error occurs again.
template <typename Work>
void Moves::attempt(Running& text, const Work& work) {
    try {
        work();
    } catch (const GenerationError&) {
        text.next = {};
        note_damage(std::current_exception());
        if (text.draft.n_open() > 0) {
            text.draft.forget_open(text.deciders());
            drop_questions(text, kBase);
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
    if (text.error) return std::nullopt;
    std::optional<Question> question;
    if (!text.next.decision && may_go_on(text))
        attempt(text, [&] {
            if (!begin_position(text)) return;
            question = text.question(kBase, {text.draft.text().tokens.size()});
            text.asked[kBase].next = true;
        });
    return question || text.writing.shared() == nullptr ? question : ask_base_ahead(text);
}

// The text's next position. True: the base has to be asked.
bool Moves::begin_position(Running& text) {
    Draft& draft = text.draft;
    Decision& decision =
        *(text.next.decision = std::make_unique<Decision>(draft.text(), text.deciders(), choices_));
    const SharedText* shared = text.writing.shared();
    if (shared != nullptr && must_propose(text)) {
        text.next.decision =
            std::make_unique<Decision>(draft.text(), text.deciders(), choices_, shared->writer());
        text.next.proposes = true;
        return false;
    }
    // Where the base's next token says where a word ends, it is asked, whatever the head needs.
    if (shared != nullptr && shared->begun() && !decision.needs_base() && !text.proposed &&
        !shared->same_vocabulary(shared->writer(), decision.expert()))
        decision.want_base();
    // A draft needs the base's choice, whoever decides.
    const bool drafts = draft.lookahead() > 0 && shared == nullptr && text.may_draft &&
                        !decision.needs_base() && can_look_ahead(decision.expert());
    if (decision.needs_base() || drafts) return true;
    decide(text, false);
    return false;
}

void Moves::hear_base(Running& text, const Answer& answer, double begin) {
    text.asked.erase(kBase);
    if (!answer.error && text.stats().of(kBase).calls++ == 0) text.stats().prefill_s += now_() - begin;
    if (text.shared_draft) return hear_base_ahead(text, answer);
    attempt(text, [&] {
        if (answer.error) std::rethrow_exception(answer.error);
        text.next.decision->hear_base(*answer.prediction);
        decide(text, true);
    });
    look_ahead(text);
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
    if (text.writing.shared() != nullptr) {
        if (!heard_base || draft.lookahead() == 0) return;
        text.next.drafted = decision.draft();
        text.next.log_odds = decision.base_log_odds();
        return;
    }
    const bool fixed = draft.lookahead() != kAutoLookahead;
    if (heard_base && text.may_draft && draft.lookahead() != 0 && can_look_ahead(expert)) {
        const double p = estimates_.acceptance_rate(decision.base_log_odds());
        const auto pays = [&] {
            return experts_[expert]->answers_later() ? estimates_.hides_latency(p, expert)
                                                     : estimates_.worth_going_on({p}, expert, 1);
        };
        if (draft.n_open() > 0 || fixed || pays()) {
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
    const std::string bytes = shared->add(step.token, step.expert);
    for (ExpertId expert = 0; expert < experts_.size(); ++expert)
        text.stats().of(expert).tokens_reread = shared->n_reread(expert);
    follow(bytes, *shared, experts_.size(), text.deciders(), step.expert);
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
    const Token next = text.proposed ? text.proposed->token : heard_base ? decision.draft().token : kNoToken;
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

bool Moves::drafts_on(const Running& text) const {
    if (text.error || text.next.decision || !text.may_draft || text.draft.n_open() == 0) return false;
    for (const auto& [expert, asked] : text.asked)
        if (expert == kBase || !experts_[expert]->answers_later()) return false;
    return may_go_on(text) && pays_to_draft_on(text);
}

bool Moves::pays_to_draft_on(const Running& text) const {
    const Draft& draft = text.draft;
    return draft.lookahead() != kAutoLookahead ||
           estimates_.hides_latency(draft.confidence(), draft.first_expert());
}

// -- the other experts

bool Moves::blocked(const Running& text) const {
    if (text.error || text.waiting()) return false;
    if (text.shared_draft) return !text.shared_draft->wants_base();
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
        const bool drafts = experts_[expert]->answers_later() && !asked.positions.empty() &&
                            may_go_on(text) && pays_to_draft_on(text);
        if (!text.next.decision && !asked.positions.empty() && draft.can_go_on() && !drafts) {
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
        asked.at = now_();
        if (text.shared_draft) {
            question->tokens = &text.shared_draft->tokens();
            question->counts = text.shared_draft->counts();
            asked.n_places = question->counts.size() - 1;
        }
        text.asked[expert] = std::move(asked);
    });
    return question;
}

void Moves::hear(Running& text, ExpertId expert, const Answer& answer, double begin, std::size_t n_texts) {
    Asked& asked = text.asked.at(expert);
    if (answer.number == 0 && !answer.error && text.stats().of(expert).calls++ == 0)
        text.stats().prefill_s += now_() - begin;
    const bool last = answer.error || answer.number + 1 == asked.size();
    note(text, expert, answer, last);
    if (is<RemoteError>(answer.error) && !text.error && experts_[expert]->replaceable()) {
        ++text.stats().of(expert).failures;
        text.deciders().left_out.leave_out(expert);
        go_back(text, expert);
    } else if (!asked.going || text.error) {
        // Behind a rejected draft token. What it shows of the cache concerns the other texts all the same.
        damaged_ = damaged_ || (answer.prediction != nullptr && has_nan(answer.prediction->logits));
    } else {
        try {
            hear_open(text, expert, answer, n_texts);
        } catch (const NoneNamed& error) {
            text.deciders().left_out.pass_over(static_cast<ExpertId>(error.expert), error.position);
            go_back(text, expert);
        } catch (const GenerationError&) {
            // The tokens before it are certain all the same. The error comes back when they are written.
            note_damage(std::current_exception());
            if (!text.draft.ready()) fail(text);
            go_back(text, expert);
        } catch (...) {
            fail(text);
            go_back(text, expert);
        }
    }
    if (!last) return;
    text.asked.erase(expert);
    if (text.shared_draft) end_ahead(text, expert);
}

// What the answer of an expert elsewhere took, and what it left out.
void Moves::note(Running& text, ExpertId expert, const Answer& answer, bool last) {
    if (!experts_[expert]->answers_later()) return;
    Work& work = text.stats().of(expert);
    if (answer.prediction != nullptr && answer.prediction->likeliest.data != nullptr) {
        ++work.n_truncated;
        work.n_named = std::max(work.n_named, answer.prediction->likeliest.size);
        work.tail += answer.prediction->tail;
    }
    if (!last) return;
    const Asked& asked = text.asked.at(expert);
    const double seconds = now_() - asked.at;
    work.seconds += seconds;
    if (!answer.error) estimates_.reading(expert, asked.size(), seconds);
}

// An answer that counts, because no draft token before it was rejected.
void Moves::hear_open(Running& text, ExpertId expert, const Answer& answer, std::size_t n_texts) {
    const Asked& asked = text.asked.at(expert);
    if (answer.number > 0 && !answer.error && !experts_[expert]->answers_later())
        estimates_.shared_call(expert, n_texts);
    if (answer.number < asked.positions.size()) {
        const std::size_t position = asked.positions[answer.number];
        if (const auto error = text.draft.hear(position, expert, answer, text.deciders())) note_damage(error);
    } else {
        text.next.hear(expert, answer);
        if (text.next.error) note_damage(text.next.error);
    }
    if (text.shared_draft) count_draft(text, answer.number);
    settle(text, expert);
    if (text.shared_draft) go_on(text, expert, answer.number + 1);
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
            if (!experts_[expert]->answers_later()) estimates_.lost(expert, n_risked);
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
    if (decision.needs_base() && text.writing.shared() == nullptr)
        estimates_.verified(decision.base_log_odds(), text.next.step->token == decision.base_top());
    write(text, *text.next.step);
}

// What was asked about draft tokens that are no more; the answers of `heard` are on their way.
void Moves::drop_questions(Running& text, ExpertId heard) {
    for (auto it = text.asked.begin(); it != text.asked.end();) {
        if (it->first != heard) experts_[it->first]->drop(*text.slot);
        it = it->first == heard ? std::next(it) : text.asked.erase(it);
    }
}

// The draft goes back to what is certain, and what was asked behind that does not matter any more.
void Moves::go_back(Running& text, ExpertId heard) {
    if (text.draft.n_open() > 0) text.draft.forget_open(text.deciders());
    text.next = {};
    if (const auto asked = text.asked.find(heard); asked != text.asked.end()) asked->second.going = false;
    drop_questions(text, heard);
}

}  // namespace colm
