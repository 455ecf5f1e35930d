#include "colm/turns.h"

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "colm/error.h"

using colm::Interrupt;
using colm::Turns;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

namespace {

void wait_for(const std::function<bool()>& condition) {
    const auto end = Clock::now() + std::chrono::seconds(20);
    while (!condition()) {
        CHECK(Clock::now() < end);
        std::this_thread::sleep_for(milliseconds(1));
    }
}

// Has a turn, computing, until release() or its end.
class Computing {
  public:
    explicit Computing(Turns& turns)
        : thread_([this, &turns] {
              const Turns::Inside inside(turns, turn, {}, interrupt);
              inside_.store(true);
              while (!released_.load()) std::this_thread::sleep_for(milliseconds(1));
          }) {
        wait_for([&] { return inside_.load(); });
    }
    ~Computing() { release(); }
    void release() {
        released_.store(true);
        if (thread_.joinable()) thread_.join();
    }

    Turns::Turn turn;
    Interrupt interrupt;

  private:
    std::atomic<bool> inside_{false};
    std::atomic<bool> released_{false};
    std::thread thread_;
};

// One text that computes for a moment, in a thread of its own.
class Text {
  public:
    Text(Turns& turns, std::function<void()> use, std::optional<double> timeout = {})
        : turns_(turns), thread_([this, use = std::move(use), timeout] {
              try {
                  const Turns::Inside inside(turns_, turn, timeout, interrupt);
                  entered = static_cast<bool>(inside);
                  if (entered) use();
              } catch (const colm::Cancelled&) {
                  cancelled = true;
              } catch (const colm::QueueTimeout&) {
                  timed_out = true;
              }
          }) {}
    ~Text() {
        join();
        turns_.give_back(turn);
    }
    void join() {
        if (thread_.joinable()) thread_.join();
    }

    Turns::Turn turn;
    Interrupt interrupt;
    bool entered = false;
    bool cancelled = false;
    bool timed_out = false;

  private:
    Turns& turns_;
    std::thread thread_;
};

}  // namespace

TEST(turns_come_in_the_order_of_asking) {
    Turns turns;
    std::vector<int> order;
    {
        Computing first(turns);
        std::vector<std::unique_ptr<Text>> texts;
        for (int i = 0; i < 5; ++i) {
            texts.push_back(std::make_unique<Text>(turns, [&order, i] { order.push_back(i); }));
            wait_for([&] { return turns.n_waiting() == static_cast<std::size_t>(i) + 1; });
        }
        turns.give_back(first.turn);  // while it computes
        std::this_thread::sleep_for(milliseconds(20));
        CHECK(order.empty());
        first.release();
        for (auto& text : texts) {
            text->join();
            turns.give_back(text->turn);
        }
    }
    CHECK_EQ(order, (std::vector<int>{0, 1, 2, 3, 4}));
    CHECK_EQ(turns.n_waiting(), 0u);
}

TEST(a_text_whose_reader_is_gone_loses_its_turn) {
    Turns turns;
    Turns::Turn left;
    Interrupt interrupt;
    CHECK(static_cast<bool>(Turns::Inside(turns, left, {}, interrupt)));
    const auto start = Clock::now();
    bool computed = false;
    Text other(turns, [&] { computed = true; });
    other.join();
    CHECK(computed);
    CHECK(Clock::now() - start >= Turns::kLeastPatience);
    CHECK(Clock::now() - start < Turns::kMostPatience + milliseconds(500));
    turns.give_back(other.turn);
    // It gets the turn again when it is read.
    CHECK(static_cast<bool>(Turns::Inside(turns, left, 0.0, interrupt)));
    turns.give_back(left);
}

TEST(a_reader_that_comes_back_at_once_keeps_its_turn_for_a_while) {
    Turns turns;
    Turns::Turn turn;
    Interrupt interrupt;
    std::atomic<bool> computed{false};
    std::unique_ptr<Text> other;
    int n_before = 0;
    for (int i = 0; i < 10000 && !computed; ++i) {
        {
            const Turns::Inside inside(turns, turn, {}, interrupt);
            if (i == 0) other = std::make_unique<Text>(turns, [&] { computed.store(true); });
            if (i == 0) wait_for([&] { return turns.n_waiting() == 1; });
            n_before += computed ? 0 : 1;
        }
        std::this_thread::sleep_for(milliseconds(2));  // its reader does something else
    }
    other->join();
    CHECK(computed);  // all the pauses together were long enough
    CHECK(n_before > 1);
    turns.give_back(turn);
}

TEST(a_thread_does_not_wait_for_itself) {
    Turns turns;
    Turns::Turn outer;
    Turns::Turn inner;
    Interrupt interrupt;
    {
        const Turns::Inside inside(turns, outer, {}, interrupt);
    }
    for (int i = 0; i < 50; ++i) {
        CHECK(static_cast<bool>(Turns::Inside(turns, inner, 0.0, interrupt)));
        CHECK(static_cast<bool>(Turns::Inside(turns, outer, 0.0, interrupt)));
    }
    const Turns::Inside computing(turns, outer, {}, interrupt);
    CHECK_THROWS(colm::GenerationError, Turns::Inside(turns, inner, {}, interrupt), "this very thread");
    turns.give_back(inner);
    turns.give_back(outer);
}

TEST(a_signal_handler_goes_before_the_thread_that_it_interrupted) {
    Turns turns;
    Computing first(turns);
    std::vector<std::string> order;
    Turns::Turn of_handler;
    Turns::Turn of_main;
    Interrupt quiet;
    bool handled = false;
    std::thread main_thread([&] {
        Interrupt interrupt([&] {
            if (handled) return false;
            handled = true;
            const Turns::Inside inside(turns, of_handler, {}, quiet);
            order.push_back("handler");
            turns.give_back(of_handler);
            return false;
        });
        const Turns::Inside inside(turns, of_main, {}, interrupt);
        order.push_back("main");
        turns.give_back(of_main);
    });
    wait_for([&] { return turns.n_waiting() == 2; });
    turns.give_back(first.turn);
    first.release();
    main_thread.join();
    CHECK_EQ(order, (std::vector<std::string>{"handler", "main"}));
}

TEST(waiting_ends_by_its_timeout_a_cancel_or_being_given_back) {
    Turns turns;
    Computing first(turns);
    const auto never = [] { CHECK(false); };
    Text late(turns, never, 0.05);
    Text at_once(turns, never, 0.0);
    Text cancelled(turns, never);
    Text given_back(turns, never);
    at_once.join();
    late.join();
    CHECK(at_once.timed_out);
    CHECK(late.timed_out);
    wait_for([&] { return turns.n_waiting() == 2; });
    cancelled.interrupt.request();
    turns.wake();
    cancelled.join();
    CHECK(cancelled.cancelled);
    turns.give_back(given_back.turn);
    given_back.join();
    CHECK(!given_back.entered);
    CHECK_EQ(turns.n_waiting(), 0u);
    turns.give_back(first.turn);
}

TEST(a_timeout_tells_how_long_it_waited) {
    Turns turns;
    Computing first(turns);
    Turns::Turn turn;
    Interrupt interrupt;
    try {
        const Turns::Inside inside(turns, turn, 0.03, interrupt);
        CHECK(false);
    } catch (const colm::QueueTimeout& error) {
        CHECK_EQ(error.fields().size(), 2u);
        CHECK(std::get<double>(error.fields()[0].second) >= 0.03);
        CHECK_EQ(std::get<double>(error.fields()[1].second), 0.03);
    }
    turns.give_back(first.turn);
}

TEST(one_text_at_a_time_whatever_the_threads_do) {
    Turns turns;
    std::atomic<int> inside_now{0};
    std::atomic<int> n_done{0};
    std::vector<std::thread> threads;
    for (unsigned seed = 0; seed < 6; ++seed) {
        threads.emplace_back([&, seed] {
            std::mt19937 random(seed);
            for (int i = 0; i < 60; ++i) {
                Turns::Turn turn;
                Interrupt interrupt;
                for (int step = 0; step < 3; ++step) {
                    try {
                        const std::optional<double> timeout =
                            random() % 4 == 0 ? std::optional<double>(0.001) : std::nullopt;
                        const Turns::Inside inside(turns, turn, timeout, interrupt);
                        if (!inside) break;
                        CHECK_EQ(++inside_now, 1);
                        if (random() % 8 == 0) std::this_thread::sleep_for(milliseconds(1));
                        if (random() % 8 == 0) turns.give_back(turn);
                        --inside_now;
                    } catch (const colm::QueueTimeout&) {
                    }
                    if (random() % 40 == 0) std::this_thread::sleep_for(milliseconds(25));
                }
                turns.give_back(turn);
                ++n_done;
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK_EQ(n_done.load(), 360);
    CHECK_EQ(turns.n_waiting(), 0u);
}
