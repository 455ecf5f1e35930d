// A queue for a pair: it computes one text at a time, in the order of the requests.
//
// If texts alternated token by token, each would displace the other's KV cache, and both models would repeat
// the prefill every time. So a text keeps its turn between two tokens, because its reader usually returns at
// once. But a reader may be slow, or may never return. Once others have waited for the reader about as long
// as a new prefill of the text takes, the text loses its turn and queues when it is next read. At most half
// of the time is then lost, whatever the reader does.
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

    // The total time that others wait for the reader of a text before the text loses its turn.
    static constexpr Clock::duration kLeastPatience = std::chrono::milliseconds(20);
    static constexpr Clock::duration kMostPatience = std::chrono::seconds(1);

    // The place of a text in the queue. It must be given back before it is destroyed.
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

    // Waits until `turn` may compute; it may do so while this object lives. `timeout`: the longest wait, in
    // seconds. A text that has the turn does not wait. Throws QueueTimeout, and Cancelled if `interrupt` was
    // requested meanwhile. Throws GenerationError if this thread already computes (in a signal handler),
    // because it would wait for itself.
    class Inside {
      public:
        Inside(Turns& turns, Turn& turn, std::optional<double> timeout, Interrupt& interrupt)
            : turns_(turns), turn_(turn), entered_(turns.enter(turn, timeout, interrupt)) {}
        ~Inside() {
            if (entered_) turns_.leave(turn_);
        }
        Inside(const Inside&) = delete;
        Inside& operator=(const Inside&) = delete;

        // False if the turn was given back, before or during the wait.
        explicit operator bool() const { return entered_; }

      private:
        Turns& turns_;
        Turn& turn_;
        bool entered_;
    };

    // Ends a turn for good, even while it waits. If it computes, it ends at its next stop. Thread-safe.
    void give_back(Turn& turn);

    // Makes all waiting texts check their interrupts.
    void wake() { changed_.notify_all(); }

    // The number of waiting texts.
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
    // The time left for the reader of the text that has the turn. Requires a waiting text.
    Clock::duration patience_left(Clock::time_point now) const;

    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::list<Ticket> queue_;
    Turn* holder_ = nullptr;
};

}  // namespace colm
