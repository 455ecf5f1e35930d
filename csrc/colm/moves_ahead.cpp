// Look-ahead across vocabularies: how a text's moves use its SharedDraft.
#include <algorithm>

#include "colm/error.h"
#include "colm/moves.h"

namespace colm {

// A draft behind the token that waits for its expert.
void Moves::look_ahead(Running& text) {
    SharedText* shared = text.writing.shared();
    const int lookahead = text.draft.lookahead();
    if (shared == nullptr || lookahead == 0 || !text.may_draft || text.shared_draft || text.error ||
        text.waiting() || !text.next.decision)
        return;
    const ExpertId expert = text.next.decision->expert();
    if (!can_look_ahead(expert)) return;
    SharedDraft::Limits limits;
    limits.n_drafted = lookahead == kAutoLookahead ? kMostLookahead : static_cast<std::size_t>(lookahead);
    limits.n_places = experts_[expert]->n_counts();
    limits.n_tokens = text.writing.limit();
    limits.n_ctx = text.writing.n_ctx();
    try {
        text.shared_draft =
            std::make_unique<SharedDraft>(*shared, text.draft.text(), text.deciders(), expert, text.next,
                                          limits, text.writing.ends_text(), choices_, estimates_);
    } catch (const Error&) {
        text.may_draft = false;
    }
}

std::optional<Question> Moves::ask_base_ahead(Running& text) {
    look_ahead(text);
    if (!text.shared_draft || !text.shared_draft->wants_base() || text.waiting()) return std::nullopt;
    Question question = text.question(kBase, {});
    question.tokens = &text.shared_draft->base_tokens();
    question.counts = {question.tokens->size()};
    text.asked[kBase].next = true;
    return question;
}

// An error may belong to a text that is never written: the expert is asked at once. If it was real, it occurs
// again.
void Moves::hear_base_ahead(Running& text, const Answer& answer) {
    try {
        if (answer.error) std::rethrow_exception(answer.error);
        text.shared_draft->hear_base(*answer.prediction);
    } catch (const Error& error) {
        damaged_ = damaged_ || dynamic_cast<const GenerationError*>(&error) != nullptr;
        text.shared_draft->end();
        text.may_draft = false;
    } catch (...) {
        fail(text);
    }
}

// Whether the expert said what was expected.
void Moves::count_draft(Running& text, std::size_t i) {
    const SharedDraft::Place& place = text.shared_draft->heard(i);
    if (!text.next.step) return;
    const bool right = text.next.step->token == place.expected;
    if (place.estimated) estimates_.verified(place.log_odds, right);
    if (!place.drafted) return;
    ++text.stats().n_drafted;
    if (right)
        ++text.stats().n_accepted;
    else
        estimates_.lost(text.shared_draft->expert(), text.shared_draft->n_behind(i));
}

// On with what the base has said already, to where it or an expert has to be asked. If that is the i-th place
// of the draft, the next answer is the one.
void Moves::go_on(Running& text, ExpertId expert, std::size_t i) {
    SharedText& shared = *text.writing.shared();
    while (!text.next.decision && text.draft.can_go_on() && shared.longest() < text.writing.n_ctx()) {
        if (!begin_position(text)) continue;
        const Prediction* said = text.shared_draft->said(shared.tokens(kBase));
        if (said == nullptr) {
            text.next = {};
            break;
        }
        shared.asked(kBase);
        text.next.decision->hear_base(*said);
        decide(text, true);
    }
    Asked& asked = text.asked.at(expert);
    asked.going = text.next.decision && text.next.needs(expert) &&
                  text.shared_draft->is_place(i, shared.tokens(expert));
    if (asked.going) shared.asked(expert);
}

void Moves::end_ahead(Running& text, ExpertId expert) {
    SharedText& shared = *text.writing.shared();
    const std::unique_ptr<SharedDraft> ahead = std::move(text.shared_draft);
    shared.drafted(expert, ahead->tokens(), ahead->n_heard());
    shared.drafted(kBase, ahead->base_asked(), ahead->n_base_used());
    for (const ExpertId reader : {expert, kBase})
        text.stats().of(reader).tokens_reread = shared.n_reread(reader);
}

}  // namespace colm
