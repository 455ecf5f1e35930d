#include "colm/stream.h"

#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>

#include "colm/error.h"

namespace colm {
namespace {

using Seconds = std::chrono::duration<double>;

// How often one that waits looks at its interrupt, which nobody needs to announce.
constexpr Seconds kPoll{0.05};

[[noreturn]] void throw_timeout(double waited, double timeout) {
    char text[160];
    std::snprintf(text, sizeof text,
                  "waited %.3g s for the pair, which was writing other texts; queue_timeout is %.3g s",
                  waited, timeout);
    throw QueueTimeout(text, waited, timeout);
}

}  // namespace

// -- the loop

void SharedLoop::refuse_this_thread() const {
    if (computing_ && computes_ == std::this_thread::get_id())
        throw GenerationError("the pair is computing in this very thread; a signal handler cannot use it");
}

void SharedLoop::begin_computing(std::unique_lock<std::mutex>& lock) {
    computing_ = true;
    computes_ = std::this_thread::get_id();
    lock.unlock();
}

void SharedLoop::end_computing() {
    computing_ = false;
    changed_.notify_all();
}

void SharedLoop::alone(const std::function<void(Loop&)>& work) {
    std::unique_lock<std::mutex> lock(mutex_);
    refuse_this_thread();
    ++n_want_alone_;
    changed_.wait(lock, [this] { return !computing_; });
    --n_want_alone_;
    begin_computing(lock);
    try {
        work(*loop_);
    } catch (...) {
        lock.lock();
        end_computing();
        throw;
    }
    lock.lock();
    end_computing();
}

// A step, whose events go to their readers. The lock is not held meanwhile.
void SharedLoop::step(std::unique_lock<std::mutex>& lock, Interrupt& interrupt) {
    begin_computing(lock);
    std::vector<Event> events;
    try {
        events = loop_->step(interrupt);
    } catch (...) {
        lock.lock();
        end_computing();
        throw;
    }
    lock.lock();
    for (Event& event : events) {
        const auto reader = readers_.find(event.text->id());
        if (reader == readers_.end()) continue;  // it has gone
        Stream& stream = *reader->second;
        if (!event.step) {
            stream.texts_.erase(std::find(stream.texts_.begin(), stream.texts_.end(), event.text));
            readers_.erase(reader);
        }
        stream.events_.push_back(std::move(event));
    }
    end_computing();
}

// -- a reader

Stream::Stream(std::shared_ptr<SharedLoop> loop, std::function<bool()> poll_interrupt)
    : shared_(std::move(loop)), interrupt_(std::move(poll_interrupt)) {}

std::shared_ptr<Text> Stream::add(Writing writing, int lookahead) {
    const std::lock_guard<std::mutex> lock(shared_->mutex_);
    std::shared_ptr<Text> text = shared_->loop_->add(std::move(writing), lookahead);
    texts_.push_back(text);
    shared_->readers_[text->id()] = this;
    if (n_waiting_ > 0) shared_->loop_->want(text);
    return text;
}

// A thread that waits for events: meanwhile the texts are wanted.
class Stream::Waiting {
  public:
    Waiting(Stream& stream, std::unique_lock<std::mutex>& lock) : stream_(stream), lock_(lock) {
        SharedLoop& shared = *stream.shared_;
        const auto me = std::this_thread::get_id();
        // Where the same thread waits already, this is a signal handler of it: what it interrupted waits for
        // it.
        const auto& threads = shared.waiting_threads_;
        const bool first = std::find(threads.begin(), threads.end(), me) != threads.end();
        ++stream.n_waiting_;
        shared.waiting_threads_.push_back(me);
        for (const auto& text : stream.texts_) shared.loop_->want(text, first);
    }
    ~Waiting() {
        if (!lock_.owns_lock()) lock_.lock();
        SharedLoop& shared = *stream_.shared_;
        auto& threads = shared.waiting_threads_;
        threads.erase(std::find(threads.begin(), threads.end(), std::this_thread::get_id()));
        if (--stream_.n_waiting_ == 0)
            for (const auto& text : stream_.texts_) shared.loop_->rest(*text);
        shared.changed_.notify_all();
    }
    Waiting(const Waiting&) = delete;
    Waiting& operator=(const Waiting&) = delete;

  private:
    Stream& stream_;
    std::unique_lock<std::mutex>& lock_;
};

std::optional<Event> Stream::next(std::optional<double> timeout) {
    std::unique_lock<std::mutex> lock(shared_->mutex_);
    shared_->refuse_this_thread();
    const Waiting waiting(*this, lock);
    return wait(lock, timeout);
}

std::vector<Event> Stream::until(const std::function<bool(const Event&)>& enough,
                                 std::optional<double> timeout) {
    std::vector<Event> events;
    std::unique_lock<std::mutex> lock(shared_->mutex_);
    shared_->refuse_this_thread();
    const Waiting waiting(*this, lock);
    while (std::optional<Event> event = wait(lock, timeout)) {
        events.push_back(std::move(*event));
        if (enough(events.back())) break;
    }
    return events;
}

std::optional<Event> Stream::wait(std::unique_lock<std::mutex>& lock, std::optional<double> timeout) {
    Loop& loop = *shared_->loop_;
    const auto asked = Loop::Clock::now();
    try {
        while (!closed_) {
            if (!events_.empty()) {
                Event event = std::move(events_.front());
                events_.pop_front();
                return event;
            }
            if (texts_.empty()) break;
            if (timeout && std::all_of(texts_.begin(), texts_.end(),
                                       [&](const auto& text) { return loop.must_wait(*text); })) {
                const double waited = Seconds(Loop::Clock::now() - asked).count();
                if (waited >= *timeout) throw_timeout(waited, *timeout);
            }
            Seconds pause = kPoll;
            if (!shared_->computing_ && shared_->n_want_alone_ == 0) {
                shared_->step(lock, interrupt_);
                if (!events_.empty() || !loop.idle()) continue;
                if (const auto left = loop.pause()) pause = std::min<Seconds>(pause, *left);
            }
            if (timeout) pause = std::min(pause, Seconds(Seconds(*timeout) - (Loop::Clock::now() - asked)));
            if (pause > Seconds(0)) shared_->changed_.wait_for(lock, pause);
            lock.unlock();  // a signal handler may run, and use the pair
            interrupt_.check();
            lock.lock();
        }
    } catch (const Cancelled&) {
        if (!lock.owns_lock()) lock.lock();
        cancel_locked();
    }
    return std::nullopt;
}

void Stream::cancel_locked() {
    std::vector<std::shared_ptr<Text>> going;
    for (const auto& text : texts_) {
        if (!shared_->loop_->cancel(*text)) {
            going.push_back(text);
            continue;
        }
        shared_->readers_.erase(text->id());
        events_.push_back({text, std::nullopt});
    }
    texts_ = std::move(going);
    shared_->changed_.notify_all();
}

void Stream::cancel() {
    const std::lock_guard<std::mutex> lock(shared_->mutex_);
    cancel_locked();
}

void Stream::close() {
    const std::lock_guard<std::mutex> lock(shared_->mutex_);
    closed_ = true;
    cancel_locked();
    for (const auto& text : texts_) {
        shared_->readers_.erase(text->id());
        shared_->loop_->rest(*text);
    }
    texts_.clear();
    events_.clear();
}

}  // namespace colm
