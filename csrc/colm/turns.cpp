#include "colm/turns.h"

#include <algorithm>
#include <cstdio>
#include <string>

#include "colm/error.h"

namespace colm {
namespace {

// How often one that waits looks at its interrupt, which nobody needs to announce.
constexpr Turns::Clock::duration kPoll = std::chrono::milliseconds(50);

[[noreturn]] void throw_timeout(double waited, double timeout) {
    char text[160];
    std::snprintf(text, sizeof text,
                  "waited %.3g s for the pair, which was writing another text; queue_timeout is %.3g s",
                  waited, timeout);
    throw QueueTimeout(text, waited, timeout);
}

}  // namespace

// A ticket in the queue, which leaves it with this, however that comes about.
class Turns::Queued {
  public:
    Queued(Turns& turns, std::unique_lock<std::mutex>& lock, Ticket ticket) : turns_(turns), lock_(lock) {
        // Where the same thread waits already, this is a signal handler of it: what it interrupted waits for
        // it.
        const auto before = std::find_if(turns.queue_.begin(), turns.queue_.end(),
                                         [&](const Ticket& other) { return other.thread == ticket.thread; });
        place_ = turns.queue_.insert(before, ticket);
    }
    ~Queued() {
        if (!lock_.owns_lock()) lock_.lock();
        turns_.queue_.erase(place_);
        turns_.changed_.notify_all();
    }
    Queued(const Queued&) = delete;
    Queued& operator=(const Queued&) = delete;

    bool is_first() const { return place_ == turns_.queue_.begin(); }

  private:
    Turns& turns_;
    std::unique_lock<std::mutex>& lock_;
    std::list<Ticket>::iterator place_;
};

bool Turns::enter(Turn& turn, std::optional<double> timeout, Interrupt& interrupt) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (turn.given_back()) return false;
    const auto asked = Clock::now();
    const std::thread::id me = std::this_thread::get_id();
    if (holder_ != nullptr && holder_->computing_ && holder_->thread_ == me)
        throw GenerationError("the pair is computing in this very thread; a signal handler cannot use it");
    if (holder_ == &turn && !turn.computing_) {
        if (!queue_.empty()) turn.idle_ += asked - std::max(turn.since_, queue_.front().asked);
        begin(turn);
        return true;
    }

    const Queued queued(*this, lock, {&turn, me, asked});
    while (true) {
        if (turn.given_back()) return false;
        const auto now = Clock::now();
        const bool mine = holder_ == &turn && !turn.computing_;
        const Clock::duration left = mine ? Clock::duration::zero() : patience_left(now);
        if (queued.is_first() && left <= Clock::duration::zero()) break;
        const std::chrono::duration<double> waited = now - asked;
        if (timeout && waited.count() >= *timeout) throw_timeout(waited.count(), *timeout);
        std::chrono::duration<double> pause = kPoll;
        if (queued.is_first()) pause = std::min<std::chrono::duration<double>>(pause, left);
        if (timeout) pause = std::min(pause, std::chrono::duration<double>(*timeout) - waited);
        changed_.wait_for(lock, pause);
        lock.unlock();  // a signal handler may run, and use the pair
        interrupt.check();
        lock.lock();
    }
    turn.idle_ = Clock::duration::zero();
    holder_ = &turn;
    begin(turn);
    return true;
}

void Turns::begin(Turn& turn) {
    turn.computing_ = true;
    turn.thread_ = std::this_thread::get_id();
    turn.since_ = Clock::now();
}

void Turns::leave(Turn& turn) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto now = Clock::now();
    // The longest that it computed at a time: what reading the text took, but for what was known of it.
    turn.patience_ = std::clamp(std::max(turn.patience_, now - turn.since_), kLeastPatience, kMostPatience);
    turn.computing_ = false;
    turn.since_ = now;
    if (!turn.given_back()) return;
    holder_ = nullptr;
    changed_.notify_all();
}

void Turns::give_back(Turn& turn) {
    const std::lock_guard<std::mutex> lock(mutex_);
    turn.given_back_.store(true);
    if (holder_ == &turn && !turn.computing_) holder_ = nullptr;
    changed_.notify_all();
}

std::size_t Turns::n_waiting() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return queue_.size();
}

Turns::Clock::duration Turns::patience_left(Clock::time_point now) const {
    if (holder_ == nullptr) return Clock::duration::zero();
    if (holder_->computing_) return kPoll;  // for as long as that takes
    // Its reader waits here itself, for another text.
    for (const Ticket& ticket : queue_)
        if (ticket.thread == holder_->thread_) return Clock::duration::zero();
    return holder_->patience_ - holder_->idle_ - (now - std::max(holder_->since_, queue_.front().asked));
}

}  // namespace colm
