// Whose text a pair computes: one at a time, in the order of asking.
//
// Token by token in turns, each text would displace the other, and both models would read both over and over.
// So a text keeps its turn between two tokens: its reader is likely to come back at once. But a reader may be
// slow, or gone for good. Once others have waited for it about as long as it takes to read the text again,
// the text loses its turn to them, and queues when it is next read. Then no more than half of the time is
// lost, whatever the reader does.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <list>
#include <mutex>
#include <optional>
#include <thread>

#include "colm/interrupt.h"

namespace colm {

class Turns {
  public:
    using Clock = std::chrono::steady_clock;

    // How long others wait for the reader of a text, in all, before the text loses its turn.
    static constexpr Clock::duration kLeastPatience = std::chrono::milliseconds(20);
    static constexpr Clock::duration kMostPatience = std::chrono::seconds(1);

    // A text's place. To be given back before it is destroyed.
    class Turn {
      public:
        Turn() = default;
        Turn(const Turn&) = delete;
        Turn& operator=(const Turn&) = delete;
        bool given_back() const { return given_back_.load(); }

      private:
        friend class Turns;
        std::atomic<bool> given_back_{false};
        bool computing_ = false;
        std::thread::id thread_;      // that computes it, or did last
        Clock::time_point since_{};   // when it began to compute, or stopped
        Clock::duration patience_{};  // that others have with its reader
        Clock::duration idle_{};      // how long others have waited for its reader
    };

    // Waits until `turn` may compute, which it then does while this lives. `timeout`: the longest wait, in
    // seconds. A text goes on with its own turn at once. Throws QueueTimeout, and Cancelled where `interrupt`
    // was requested meanwhile. Throws GenerationError where this very thread computes already (a signal
    // handler asks), since it would wait for itself.
    class Inside {
      public:
        Inside(Turns& turns, Turn& turn, std::optional<double> timeout, Interrupt& interrupt)
            : turns_(turns), turn_(turn), entered_(turns.enter(turn, timeout, interrupt)) {}
        ~Inside() {
            if (entered_) turns_.leave(turn_);
        }
        Inside(const Inside&) = delete;
        Inside& operator=(const Inside&) = delete;

        // False where the turn was given back, before or while it waited.
        explicit operator bool() const { return entered_; }

      private:
        Turns& turns_;
        Turn& turn_;
        bool entered_;
    };

    // Ends a turn for good, also one that waits or computes (when it next stops). Safe from any thread.
    void give_back(Turn& turn);

    // Has all that wait look at their interrupts.
    void wake() { changed_.notify_all(); }

    // Texts that wait.
    std::size_t n_waiting() const;

  private:
    struct Ticket {
        Turn* turn;
        std::thread::id thread;
        Clock::time_point asked;
    };
    class Queued;

    bool enter(Turn& turn, std::optional<double> timeout, Interrupt& interrupt);
    void leave(Turn& turn);
    void begin(Turn& turn);
    // How much longer others wait for the reader of the text that has the turn. Requires one that waits.
    Clock::duration patience_left(Clock::time_point now) const;

    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::list<Ticket> queue_;
    Turn* holder_ = nullptr;
};

}  // namespace colm
