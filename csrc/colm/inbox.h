// What other threads do to a loop beside its steps: they add texts, and cancel some.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "colm/interrupt.h"
#include "colm/running.h"
#include "colm/slots.h"

namespace colm {

class Inbox {
  public:
    // Any thread.

    // A text that the next step takes.
    std::shared_ptr<Text> add(Writing writing, int lookahead, const Choices& choices);
    // See Loop::cancel().
    bool cancel(Text& text, Slots& slots);

    // The thread that makes the steps.

    // Moves the new texts to the end of `running`.
    void take(std::vector<std::unique_ptr<Running>>& running);
    // Until end_step(), the step is abandoned once all of its texts are cancelled.
    void begin_step(std::vector<Text*> in_step, Interrupt& interrupt);
    // Whether that happened. A stop that others asked for stays for the next step.
    bool end_step(Interrupt& interrupt);
    std::size_t n_in_step() const { return in_step_.size(); }

  private:
    bool all_cancelled() const;

    std::mutex mutex_;
    std::vector<std::unique_ptr<Running>> added_;
    TextId next_id_ = 0;
    std::vector<Text*> in_step_;      // those that are being computed
    Interrupt* computing_ = nullptr;  // of the step in progress
    bool abandoned_ = false;          // since all of its texts were cancelled
};

}  // namespace colm
