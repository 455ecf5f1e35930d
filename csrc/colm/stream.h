// Readers of one loop. Whoever waits for a token and finds nobody computing makes the steps, for all texts
// that are waited for; the others get theirs from it.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "colm/loop.h"

namespace colm {

class Stream;

// A loop that several threads use.
class SharedLoop {
  public:
    explicit SharedLoop(std::unique_ptr<Loop> loop) : loop_(std::move(loop)) {}

    // Does `work` to the loop while nobody computes. Throws GenerationError where this thread does (in a
    // signal handler).
    void alone(const std::function<void(Loop&)>& work);

    std::size_t n_ctx() const { return loop_->n_ctx(); }
    std::size_t n_slots() const { return loop_->n_slots(); }
    std::size_t n_steps() const { return loop_->n_steps(); }
    const Loop::Experts& experts() const { return loop_->experts(); }

  private:
    friend class Stream;

    void begin_computing(std::unique_lock<std::mutex>& lock);
    void end_computing();
    void step(std::unique_lock<std::mutex>& lock, Interrupt& interrupt);
    void refuse_this_thread() const;

    std::unique_ptr<Loop> loop_;
    std::mutex mutex_;
    std::condition_variable changed_;
    bool computing_ = false;
    std::size_t n_want_alone_ = 0;                  // threads, which go before the next step
    std::thread::id computes_;                      // who
    std::map<TextId, Stream*> readers_;             // of texts that have not ended
    std::vector<std::thread::id> waiting_threads_;  // each as often as it waits
};

// The texts of one reader, one or many. Several threads may read one stream: each event goes to one of them.
class Stream {
  public:
    // `poll_interrupt`: see Interrupt.
    Stream(std::shared_ptr<SharedLoop> loop, std::function<bool()> poll_interrupt);
    ~Stream() { close(); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;

    std::shared_ptr<Text> add(Writing writing, int lookahead);
    // The next event of any of its texts; nothing once all have ended, or after close(). Its texts are moved
    // while this waits. `timeout`: the longest wait for a slot, in seconds; then throws QueueTimeout, and the
    // text stands where it was.
    std::optional<Event> next(std::optional<double> timeout = {});
    // Events until `enough` of one, without a pause between them in which others could take the slot.
    std::vector<Event> until(const std::function<bool(const Event&)>& enough,
                             std::optional<double> timeout = {});

    // Asks all its texts to end as `cancelled`. Safe from any thread, as close() is.
    void cancel();
    // Likewise; and no more events are given.
    void close();

  private:
    friend class SharedLoop;
    class Waiting;

    std::optional<Event> wait(std::unique_lock<std::mutex>& lock, std::optional<double> timeout);
    void cancel_locked();

    std::shared_ptr<SharedLoop> shared_;
    Interrupt interrupt_;
    std::vector<std::shared_ptr<Text>> texts_;  // that have not ended; the lock of the loop guards these
    std::deque<Event> events_;
    std::size_t n_waiting_ = 0;  // threads
    bool closed_ = false;
};

}  // namespace colm
