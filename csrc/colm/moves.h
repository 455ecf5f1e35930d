// What one text does in a step: what each expert is asked about it, and what follows from the answers. An
// error ends this text alone.
#pragma once

#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "colm/estimates.h"
#include "colm/expert.h"
#include "colm/running.h"

namespace colm {

class Moves {
  public:
    // All are borrowed. `now`: seconds.
    Moves(const std::vector<std::unique_ptr<Expert>>& experts, const Choices& choices, Estimates& estimates,
          const std::function<double()>& now)
        : experts_(experts), choices_(choices), estimates_(estimates), now_(now) {}

    // Begins the text's next position. Nothing where the base need not be asked.
    std::optional<Question> ask_base(Running& text);
    // The base's answer, which was waited for since `begin`.
    void hear_base(Running& text, const Answer& answer, double begin);

    // Whether a text that waits for experts elsewhere drafts on meanwhile.
    bool drafts_on(const Running& text) const;

    // Whether the text cannot go on before its expert is asked.
    bool blocked(const Running& text) const;
    // What an expert is asked: about draft tokens that wait for it, and the token behind them if that waits
    // for it, too. Nothing where there are none.
    std::optional<Question> ask(Running& text, ExpertId expert);
    // Its answer about one of them, which was waited for since `begin` in a step of `n_texts` texts.
    void hear(Running& text, ExpertId expert, const Answer& answer, double begin, std::size_t n_texts);

    // Whether an error since the last call may come from what the caches hold.
    bool take_damage() { return std::exchange(damaged_, false); }

  private:
    template <typename Work>
    void attempt(Running& text, const Work& work);
    bool begin_position(Running& text);
    void decide(Running& text, bool heard_base);
    void write(Running& text, Step step);
    bool must_propose(const Running& text) const;
    void choose_writer(Running& text, bool heard_base);
    void hear_open(Running& text, ExpertId expert, const Answer& answer, std::size_t n_texts);
    void settle(Running& text, ExpertId heard);
    void note(Running& text, ExpertId expert, const Answer& answer, bool last);
    void drop_questions(Running& text, ExpertId heard);
    void go_back(Running& text, ExpertId heard);
    void fail(Running& text);
    void note_damage(const std::exception_ptr& error);
    bool may_go_on(const Running& text) const;
    bool pays_to_draft_on(const Running& text) const;
    bool can_look_ahead(ExpertId expert) const;
    bool can_look_ahead() const;  // with any

    // Across vocabularies, in moves_ahead.cpp. `i`: a place of the SharedDraft.
    void look_ahead(Running& text);
    std::optional<Question> ask_base_ahead(Running& text);
    void hear_base_ahead(Running& text, const Answer& answer);
    void count_draft(Running& text, std::size_t i);
    void go_on(Running& text, ExpertId expert, std::size_t i);
    void end_ahead(Running& text, ExpertId expert);

    const std::vector<std::unique_ptr<Expert>>& experts_;
    const Choices& choices_;
    Estimates& estimates_;
    const std::function<double()>& now_;
    bool damaged_ = false;
};

}  // namespace colm
