// The loop: every token of every text is written by its step().
//
// A step moves all texts that have a slot and whose readers wait. Each text drafts for itself (draft.h):
//   1. the base reads the next token of every text that can go on, in one batch;
//   2. each text's Decision says who writes the next token. The base's tokens are chosen at once. A deferred
//      token becomes a draft token, or waits for its expert;
//   3. where a text can go no further, the experts that it waits for are asked, one after the other: about
//   this
//      text, and in the same batch about all others that have something open for them;
//   4. tokens that are certain now go to their texts, and leave as events once their text is certain, too.
// One text is the case of one. Texts share decodes and nothing else: one that fails, ends or is cancelled
// changes nothing in the others.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "colm/estimates.h"
#include "colm/expert.h"
#include "colm/inbox.h"
#include "colm/moves.h"
#include "colm/running.h"
#include "colm/saved_texts.h"
#include "colm/slots.h"

namespace colm {

// Something that became certain: a token with its text, or, without one, the end of the text.
struct Event {
    std::shared_ptr<Text> text;
    std::optional<StreamedStep> step;
};

class Loop {
  public:
    using Clock = std::chrono::steady_clock;
    using Experts = std::vector<std::unique_ptr<Expert>>;

    // Experts by their ids: the base first. They have the same number of slots. `cache_bytes`: for what slots
    // held before other texts took them. `now`: the seconds by which times are measured; tests have a clock
    // of their own.
    Loop(Experts experts, Choices choices, std::size_t cache_bytes = 0,
         std::function<double()> now = clock_seconds);
    ~Loop();

    // These may be called from any thread, also while another is in step(); the next step sees it.

    // Adds a text, made with n_ctx(). It is begun when it is wanted and there is a slot. `lookahead`: see
    // GenerationOptions.
    std::shared_ptr<Text> add(Writing writing, int lookahead);
    // Whether somebody waits for the text's next token: only such texts are moved. `first`: see Slots.
    void want(const std::shared_ptr<Text>& text, bool first = false) { slots_.want(text, first); }
    void rest(Text& text) { slots_.rest(text); }
    // Ends a text as `cancelled`. Where nothing else is being computed, what is computed stops at once. True:
    // it waited for a slot and has ended; no event tells of it.
    bool cancel(Text& text) { return inbox_.cancel(text, slots_); }
    // Whether a text waits for a slot, and there is none.
    bool must_wait(const Text& text) const { return slots_.must_wait(text); }

    // Makes a step. Returns what became certain; nothing where no text could be moved. One thread at a time.
    // Throws Cancelled where `interrupt` was requested by others than cancel(); every text then stands where
    // it was, and events that came before are those of the next step.
    std::vector<Event> step(Interrupt& interrupt);
    // Whether the last step had nothing to do; then, how long until a slot becomes free if no reader returns.
    bool idle() const { return idle_; }
    std::optional<Clock::duration> pause() const { return slots_.pause(); }

    // How many tokens each text may have: the least that the experts hold.
    std::size_t n_ctx() const;
    std::size_t n_slots() const { return slots_.size(); }
    std::size_t n_steps() const { return n_steps_; }

    // Not beside a step: forgets what was read and saved; gives it, and knows it again instead of what it
    // knew (false: an expert refused a text, and nothing is known); looks inside.
    void forget();
    std::vector<KnownText> known() const { return saved_.known(experts_); }
    bool know(const std::vector<KnownText>& texts);
    const Experts& experts() const { return experts_; }
    const Estimates& estimates() const { return estimates_; }
    const SavedTexts& saved() const { return saved_; }
    const Choices& choices() const { return choices_; }

  private:
    using Moving = std::vector<Running*>;
    // Texts, and the seconds that reading their prompts took before.
    using Computed = std::vector<std::pair<Running*, double>>;
    // What an expert read in a step, the most decodes of a text, and how long it took; no time where it has
    // yet to answer.
    struct Heard {
        std::size_t n_read = 0;
        std::size_t n_most = 0;
        std::optional<double> seconds;
    };

    static double clock_seconds();

    Moving to_move() const;
    Computed to_compute() const;
    static std::vector<Text*> texts_of(const Computed& computed);
    void note_seconds(const Computed& computed, double seconds);
    void drop_ended();
    void take_in();
    void fill_slots();
    void take_back(Running& text);
    void read_base(const Moving& moving, Interrupt& interrupt);
    std::vector<Question> questions_to(ExpertId expert, const Moving& moving);
    void ask_experts(const Moving& moving, Interrupt& interrupt);
    Heard collect(ExpertId expert, std::vector<Question> questions, const Moving& moving,
                  Interrupt& interrupt, const Expert::Use& hear);
    void hand_over(Running& text);
    void end(Running& text, FinishReason reason);

    bool must_ask(const Moving& moving) const;
    Running* running_at(std::size_t slot) const;

    Experts experts_;
    Choices choices_;
    Estimates estimates_;
    Slots slots_;
    SavedTexts saved_;
    std::function<double()> now_;
    Moves moves_;  // borrows from the members above
    Inbox inbox_;
    std::vector<std::unique_ptr<Running>> running_;  // in order of their ids
    std::vector<Event> events_;
    std::atomic<std::size_t> n_steps_{0};
    std::atomic<bool> idle_{false};
};

}  // namespace colm
