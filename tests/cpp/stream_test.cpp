#include "colm/stream.h"

#include <atomic>
#include <chrono>
#include <thread>

#include "world.h"

using colm::Event;
using colm::FinishReason;
using colm::Interrupt;
using colm::SharedLoop;
using colm::Stream;
using colm::Token;

namespace {

using Text = FakeModel::Text;
using std::chrono::milliseconds;

// The models of a world, and its loop for several threads.
struct Shared {
    explicit Shared(std::size_t n_slots, Models m = {}, int decode_ms = 1) : models(std::move(m)) {
        Limits limits;
        limits.n_slots = n_slots;
        limits.n_ctx = 200;
        world = std::make_unique<World>(models, limits);
        world->base->on_eval = [this, decode_ms](std::size_t, Interrupt& interrupt) {
            std::this_thread::sleep_for(milliseconds(decode_ms));
            if (on_decode) on_decode();
            if (interrupt.requested()) throw colm::Cancelled();
        };
        loop = std::make_shared<SharedLoop>(std::move(world->loop));
    }

    static Job job(std::size_t i, int max_tokens = 20) {
        Job job;
        job.prompt = {static_cast<Token>(10 + i), 3};
        job.max_tokens = max_tokens;
        job.banned = {kEnd};
        return job;
    }
    std::shared_ptr<colm::Text> add(Stream& stream, const Job& job) {
        return stream.add(make_writing(job, loop->n_ctx()), job.lookahead);
    }
    Text alone(const Job& job) { return write_alone(models, job, 200).sequence.tokens; }

    Models models;
    std::function<void()> on_decode;
    std::unique_ptr<World> world;
    std::shared_ptr<SharedLoop> loop;
};

bool ends(const Event& event) { return !event.step; }

}  // namespace

TEST_CASE("stream: threads share the slots") {
    for (const std::size_t n_slots : {1, 2, 4}) {
        Shared shared(n_slots);
        std::vector<std::thread> threads;
        std::vector<Text> got(6);
        std::atomic<std::size_t> n_begun{0};
        shared.on_decode = [&] {
            while (n_begun < got.size()) std::this_thread::sleep_for(milliseconds(20));
        };
        for (std::size_t i = 0; i < got.size(); ++i)
            threads.emplace_back([&, i] {
                Stream stream(shared.loop, {});
                const auto text = shared.add(stream, Shared::job(i));
                ++n_begun;
                stream.until(ends);
                got[i] = text->sequence().tokens;
            });
        for (std::thread& thread : threads) thread.join();
        for (std::size_t i = 0; i < got.size(); ++i) REQUIRE_EQ(got[i], shared.alone(Shared::job(i)));
        // Every text is read once: whoever has a slot keeps it to the end of the text.
        REQUIRE_EQ(shared.world->base->n_read, 6 * 21);
        REQUIRE(shared.world->base->batches.size() <= 6 * 20);
        if (n_slots == 4) REQUIRE(shared.world->base->batches.size() <= 3 * 20);
    }
}

TEST_CASE("stream: one is read by several threads") {
    Shared shared(1, {}, 0);
    Stream stream(shared.loop, {});
    const auto text = shared.add(stream, Shared::job(0, 100));
    std::atomic<int> n{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i)
        threads.emplace_back([&] {
            while (const auto event = stream.next())
                if (event->step) ++n;
        });
    for (std::thread& thread : threads) thread.join();
    REQUIRE_EQ(n.load(), 100);
    REQUIRE_EQ(text->finish_reason(), FinishReason::length);
}

TEST_CASE("stream: whose reader is gone blocks nobody") {
    Shared shared(1);
    Stream left(shared.loop, {});
    const auto text = shared.add(left, Shared::job(0));
    left.next();
    std::thread other([&] {
        Stream stream(shared.loop, {});
        const auto start = std::chrono::steady_clock::now();
        shared.add(stream, Shared::job(1, 2));
        REQUIRE_EQ(stream.until(ends).size(), 3);
        REQUIRE(std::chrono::steady_clock::now() - start < std::chrono::seconds(5));
    });
    other.join();
    left.until(ends);  // it goes on where it stood
    REQUIRE_EQ(text->sequence().tokens, shared.alone(Shared::job(0)));
}

TEST_CASE("stream: a thread s own texts do not wait for each other") {
    Shared shared(1);
    Stream one(shared.loop, {});
    Stream two(shared.loop, {});
    const auto a = shared.add(one, Shared::job(0));
    const auto b = shared.add(two, Shared::job(1));
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < 5; ++i) {
        REQUIRE(one.next());
        REQUIRE(two.next());
    }
    REQUIRE(std::chrono::steady_clock::now() - start < std::chrono::seconds(5));
    REQUIRE_EQ(a->sequence().n_generated(), 5);
    REQUIRE_EQ(b->sequence().n_generated(), 5);
}

TEST_CASE("stream: waits no longer than it may") {
    Shared shared(1, {}, 5);
    std::atomic<bool> begun{false};
    shared.on_decode = [&] { begun = true; };
    std::thread other([&] {
        Stream stream(shared.loop, {});
        shared.add(stream, Shared::job(0, 100));
        stream.until(ends);
    });
    while (!begun) std::this_thread::yield();
    Stream stream(shared.loop, {});
    const auto text = shared.add(stream, Shared::job(1));
    for (const double timeout : {0.0, 0.05}) {
        try {
            stream.next(timeout);
            REQUIRE(false);
        } catch (const colm::QueueTimeout& error) {
            REQUIRE(std::get<double>(error.fields()[0].second) >= timeout);
        }
    }
    other.join();
    stream.until(ends, 0.0);  // it stands where it stood
    REQUIRE_EQ(text->sequence().tokens, shared.alone(Shared::job(1)));
}

TEST_CASE("stream: cancel and close from other threads") {
    Shared shared(2, {}, 2);
    Stream kept(shared.loop, {});
    const auto goes_on = shared.add(kept, Shared::job(0, 60));
    Stream stream(shared.loop, {});
    const auto cancelled = shared.add(stream, Shared::job(1, 150));
    Stream closed(shared.loop, {});
    shared.add(closed, Shared::job(2, 150));
    std::vector<std::thread> threads;
    threads.emplace_back([&] { kept.until(ends); });
    threads.emplace_back([&] {
        const std::vector<Event> events = stream.until(ends);
        REQUIRE(!events.empty());
        REQUIRE(!events.back().step);
    });
    threads.emplace_back([&] { closed.until(ends); });
    std::this_thread::sleep_for(milliseconds(20));
    stream.cancel();
    closed.close();
    for (std::thread& thread : threads) thread.join();
    REQUIRE_EQ(cancelled->finish_reason(), FinishReason::cancelled);
    REQUIRE_EQ(goes_on->sequence().tokens, shared.alone(Shared::job(0, 60)));
    REQUIRE(!closed.next());
}

TEST_CASE("stream: interrupted ends its own texts alone") {
    Shared shared(2, {}, 2);
    std::atomic<bool> stop{false};
    Stream kept(shared.loop, {});
    const auto goes_on = shared.add(kept, Shared::job(0, 60));
    Stream stream(shared.loop, [&] { return stop.load(); });
    const auto text = shared.add(stream, Shared::job(1, 190));
    std::thread other([&] { kept.until(ends); });
    std::thread asked([&] { stream.until(ends); });
    std::this_thread::sleep_for(milliseconds(20));
    stop = true;
    asked.join();
    other.join();
    REQUIRE(text->sequence().n_generated() < 190);
    REQUIRE_EQ(goes_on->sequence().tokens, shared.alone(Shared::job(0, 60)));
}

TEST_CASE("stream: refuses to wait for itself") {
    Shared shared(1);
    bool refused = false;
    shared.on_decode = [&] {
        Stream inner(shared.loop, {});
        shared.add(inner, Shared::job(1));
        REQUIRE_THROWS_WITH_AS(inner.next(), doctest::Contains("very thread"), colm::GenerationError);
        refused = true;
    };
    Stream stream(shared.loop, {});
    const auto text = shared.add(stream, Shared::job(0, 3));
    stream.until(ends);
    REQUIRE(refused);
    REQUIRE_EQ(text->sequence().tokens, shared.alone(Shared::job(0, 3)));
}

TEST_CASE("stream: many texts of one reader") {
    Shared shared(3);
    Stream stream(shared.loop, {});
    std::vector<std::shared_ptr<colm::Text>> texts;
    for (std::size_t i = 0; i < 7; ++i)
        texts.push_back(shared.add(stream, Shared::job(i, 3 + static_cast<int>(i))));
    std::size_t n_ended = 0;
    while (const auto event = stream.next()) n_ended += event->step ? 0 : 1;
    REQUIRE_EQ(n_ended, 7);
    for (std::size_t i = 0; i < 7; ++i)
        REQUIRE_EQ(texts[i]->sequence().tokens, shared.alone(Shared::job(i, 3 + static_cast<int>(i))));
}
