// An expert that computes elsewhere: each text's questions go to a thread of its own, which calls a function
// that blocks. Answers come when they come, and name the likeliest tokens.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "colm/distribution.h"
#include "colm/expert.h"

namespace colm {

// A next-token distribution of which the likeliest ids are known, by log-probability, descending.
struct Likeliest {
    std::vector<Candidate> candidates;
    double tail = 0.0;  // the probability of all others together
};

// How a model elsewhere is asked.
class RemoteCalls {
  public:
    virtual ~RemoteCalls() = default;

    // The distributions after the first `count` of `tokens`, for each of `counts`. Blocks; called from
    // several threads. Throws RemoteError, or whatever error there is. Once `wanted` says no, nobody uses the
    // answer, and the call should end soon, with any error. Safe from any thread while ask() runs.
    virtual std::vector<Likeliest> ask(std::size_t slot, const std::vector<Token>& tokens,
                                       const std::vector<std::size_t>& counts,
                                       const std::function<bool()>& wanted) = 0;
    // Runs `join`, which waits for the threads that are in ask(). Those may need what the caller holds.
    virtual void wait(const std::function<void()>& join) { join(); }
};

struct RemoteLimits {
    std::size_t n_slots = 1;
    std::size_t n_ctx = 0;
    std::size_t n_counts = 1;
    std::size_t n_ids = 0;  // those below may be chosen
    bool replaceable = false;
};

class RemoteExpert final : public Expert {
  public:
    RemoteExpert(std::shared_ptr<RemoteCalls> calls, const RemoteLimits& limits);
    ~RemoteExpert() override;
    RemoteExpert(const RemoteExpert&) = delete;
    RemoteExpert& operator=(const RemoteExpert&) = delete;

    std::size_t n_slots() const override { return limits_.n_slots; }
    std::size_t n_ctx() const override { return limits_.n_ctx; }
    std::size_t n_counts() const override { return limits_.n_counts; }
    bool goes_back() const override { return true; }
    bool answers_later() const override { return true; }
    bool replaceable() const override { return limits_.replaceable; }

    void ask(std::vector<Question> questions) override;
    void collect(bool wait, Interrupt& interrupt, const Use& use) override;
    // The answer is thrown away when it comes. The slot's next question waits for that.
    void drop(std::size_t slot) override;
    // The call is told that nobody wants its answer.
    void leave(std::size_t slot) override;

    std::size_t n_decodes() const override { return shared_->n_asked; }

    // Waits for the calls that are under way, and ends the threads. Questions are answered with PairClosed
    // from now on. Safe from any thread. In a forked child there are no threads, and nothing is waited for.
    void stop();

  private:
    struct Asked {
        std::size_t number = 0;
        std::vector<Token> tokens;
        std::vector<std::size_t> counts;
        std::vector<Token> excluded;
    };
    struct Answered {
        std::size_t slot = 0;
        std::vector<Likeliest> likeliest;
        std::exception_ptr error;
    };
    struct Slot {
        std::thread thread;  // from the first question on
        std::condition_variable changed;
        std::optional<Asked> asked;
        std::size_t number = 0;            // of the question whose answer is wanted; 0: none
        std::atomic<std::size_t> left{0};  // questions up to this number are of texts that have ended
    };

    // What the threads use.
    struct Shared {
        explicit Shared(std::size_t n_slots) : slots(n_slots) {}

        std::mutex mutex;  // of all below
        std::condition_variable answered_changed;
        std::deque<Slot> slots;
        std::vector<Answered> answered;
        std::atomic<std::size_t> n_asked{0};  // read from any thread
        std::atomic<bool> over{false};        // also read by calls, without the mutex
    };

    bool is_forked() const;
    void serve(std::size_t slot);
    Answered answer(std::size_t slot, const Asked& asked);
    void keep_choices(Likeliest& likeliest, const std::vector<Token>& excluded) const;

    std::shared_ptr<RemoteCalls> calls_;
    RemoteLimits limits_;
    std::unique_ptr<Shared> shared_;
    std::mutex joining_;  // one thread joins
    long process_;
};

}  // namespace colm
