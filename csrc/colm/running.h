// One text of a loop while it is written: its draft, and what experts are being asked about it.
#pragma once

#include <cstddef>
#include <exception>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "colm/draft.h"
#include "colm/expert.h"
#include "colm/shared_draft.h"
#include "colm/text.h"
#include "colm/writing.h"

namespace colm {

// What an expert was asked about a text.
struct Asked {
    std::vector<std::size_t> positions;  // tokens before each draft token that it verifies
    bool next = false;                   // and the token behind them, which waits
    std::size_t n_places = 0;            // and further places of a draft across vocabularies
    bool going = true;                   // until a draft token was rejected
    double at = 0.0;                     // when, in seconds of the loop's clock

    std::size_t size() const { return positions.size() + (next ? 1 : 0) + n_places; }
};

struct Running {
    Running(std::shared_ptr<Text> shown, Writing w, int lookahead, const Choices& choices)
        : text(std::move(shown)),
          writing(std::move(w)),
          draft(writing.sequence(), lookahead, writing.limit(), writing.ends_text()),
          excluded(choices.blocked),
          choices_(choices) {
        const Token head = deciders().head->defer_token();
        if (head != kNoToken && static_cast<std::size_t>(head) < choices.n_shared) excluded.push_back(head);
    }

    Sequence& sequence() { return writing.sequence(); }
    Stats& stats() { return writing.sequence().stats; }
    Deciders& deciders() { return writing.deciders(); }
    bool open() const { return draft.n_open() > 0 || next.decision; }
    bool waiting() const { return !asked.empty(); }
    bool waits_for(ExpertId expert) const { return asked.count(expert) > 0; }

    // What an expert reads of the text: a prompt of its own, where it has one, and what was written.
    const std::vector<Token>& tokens_of(ExpertId expert) {
        if (writing.shared() != nullptr) return writing.shared()->tokens(expert);
        const std::vector<Token>& all = draft.text().tokens;
        const std::vector<Token>* prompt = writing.own_prompt(expert);
        if (prompt == nullptr) return all;
        std::vector<Token>& own = own_[expert];
        own = *prompt;
        own.insert(own.end(), all.begin() + static_cast<std::ptrdiff_t>(draft.text().n_prompt), all.end());
        return own;
    }

    // `counts`: tokens of the text before each distribution that is wanted.
    Question question(ExpertId expert, const std::vector<std::size_t>& counts) {
        Question question;
        question.slot = *slot;
        question.tokens = &tokens_of(expert);
        for (const std::size_t count : counts)
            question.counts.push_back(question.tokens->size() + count - draft.text().tokens.size());
        const bool own = writing.shared() != nullptr && !writing.shared()->same_vocabulary(kBase, expert);
        const std::vector<Token>& never = own ? choices_.of(expert).blocked : excluded;
        question.excluded = {never.data(), never.size()};
        question.calls = &sequence().calls;
        if (writing.shared() != nullptr && !counts.empty()) writing.shared()->asked(expert);
        if (expert != kBase) return question;
        question.hidden = deciders().head->needs_hidden();
        question.probe = deciders().head->defer_token();
        return question;
    }

    std::shared_ptr<Text> text;
    Writing writing;
    Draft draft;
    std::vector<Token> excluded;  // ids of the base's vocabulary that are never chosen in this text
    std::optional<std::size_t> slot;
    // Of the position behind the draft, while the base is asked about it or it waits for its experts.
    Pending next;
    std::map<ExpertId, Asked> asked;
    // Unlike vocabularies: what the expert that wrote last would write next.
    std::optional<Step> proposed;
    // And what may follow on `next`, until its expert has answered.
    std::unique_ptr<SharedDraft> shared_draft;
    bool may_draft = true;  // not after an error behind an open draft token
    std::exception_ptr error;

  private:
    const Choices& choices_;
    std::map<ExpertId, std::vector<Token>> own_;  // see tokens_of()
};

}  // namespace colm
