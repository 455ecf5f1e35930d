// A request to stop, made by another thread or by a signal, and looked at between and inside decodes.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <utility>

#include "colm/error.h"

namespace colm {

class Interrupt {
  public:
    // `poll` asks the host (Python's signal handlers) whether to stop; called at most every 100 ms, only from
    // the thread that computes, or waits for its turn to.
    explicit Interrupt(std::function<bool()> poll = {}) : poll_(std::move(poll)) {}

    // Safe from any thread.
    void request() { requested_.store(true, std::memory_order_relaxed); }

    // Stops what is being computed because nobody wants it any more, until resume(). A request() stays.
    void abandon() { abandoned_.store(true, std::memory_order_relaxed); }
    void resume() { abandoned_.store(false, std::memory_order_relaxed); }

    // For llama.cpp's abort callback, which comes once per graph node, a thousand times a step: it looks at
    // the clock on one call in 64 only.
    bool requested() {
        if (stopped()) return true;
        return (n_calls_.fetch_add(1, std::memory_order_relaxed) + 1) % 64 == 0 && poll();
    }

    // Throws Cancelled when a stop was requested.
    void check() {
        if (stopped() || poll()) throw Cancelled();
    }

  private:
    bool stopped() const {
        return requested_.load(std::memory_order_relaxed) || abandoned_.load(std::memory_order_relaxed);
    }

    bool poll() {
        if (!poll_) return false;
        const auto now = Clock::now().time_since_epoch();
        if (now - Clock::duration(last_poll_.load()) < std::chrono::milliseconds(100)) return false;
        last_poll_.store(now.count());
        if (poll_()) request();
        return requested_.load(std::memory_order_relaxed);
    }

    using Clock = std::chrono::steady_clock;
    std::atomic<bool> requested_{false};
    std::atomic<bool> abandoned_{false};
    std::function<bool()> poll_;
    // Atomic, since a thread may wait for its turn with a text while another computes it.
    std::atomic<Clock::rep> last_poll_{0};
    std::atomic<std::uint32_t> n_calls_{0};
};

}  // namespace colm
