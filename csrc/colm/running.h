// One text of a loop while it is written: its draft, and what an expert is being asked about it.
#pragma once

#include <cstddef>
#include <exception>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "colm/draft.h"
#include "colm/expert.h"
#include "colm/text.h"
#include "colm/writing.h"

namespace colm {

// What an expert was asked about a text.
struct Asked {
    ExpertId expert = kBase;
    std::size_t n_open = 0;  // draft tokens to verify
    bool next = false;       // and the token behind them, which waits
    bool going = true;       // until a draft token was rejected
};

struct Running {
    Running(std::shared_ptr<Text> shown, Writing w, int lookahead, const Choices& choices)
        : text(std::move(shown)),
          writing(std::move(w)),
          draft(writing.sequence(), lookahead, writing.limit(), writing.ends_text()),
          excluded(choices.blocked) {
        const Token head = deciders().head->defer_token();
        if (head != kNoToken && static_cast<std::size_t>(head) < choices.n_shared) excluded.push_back(head);
    }

    Sequence& sequence() { return writing.sequence(); }
    Stats& stats() { return writing.sequence().stats; }
    Deciders& deciders() { return writing.deciders(); }
    bool open() const { return draft.n_open() > 0 || decision; }
    bool waits_for(ExpertId expert) const { return asked && asked->expert == expert; }

    Question question(ExpertId expert) {
        Question question;
        question.slot = *slot;
        question.tokens = &draft.text().tokens;
        question.excluded = {excluded.data(), excluded.size()};
        question.calls = &sequence().calls;
        if (expert != kBase) return question;
        question.hidden = deciders().head->needs_hidden();
        question.probe = deciders().head->defer_token();
        return question;
    }

    std::shared_ptr<Text> text;
    Writing writing;
    Draft draft;
    std::vector<Token> excluded;  // ids that are never chosen in this text
    std::optional<std::size_t> slot;
    // Of the position behind the draft, while the base is asked about it or it waits for its expert.
    std::unique_ptr<Decision> decision;
    std::optional<Asked> asked;
    bool may_draft = true;  // not after an error behind an open draft token
    std::exception_ptr error;
};

}  // namespace colm
