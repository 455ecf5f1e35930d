#include "llama/large_stack.h"

#include <new>
#include <stdexcept>
#include <thread>

#include "check.h"

using colm::llama::with_stack;

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

// Each call takes more than 1 KiB of stack.
int descend(int n) {
    volatile char room[1024];
    room[n % 1024] = 1;
    return n == 0 ? 0 : descend(n - 1) + room[n % 1024];
}

}  // namespace

TEST_CASE("large_stack: holds what an ordinary stack does not") {
    constexpr int kDepth = 64 * 1024;
    int reached = 0;
    with_stack(192 * kMiB, [&] { reached = descend(kDepth); });
    REQUIRE_EQ(reached, kDepth);
}

TEST_CASE("large_stack: small work runs in place") {
    const auto here = std::this_thread::get_id();
    std::thread::id ran;
    with_stack(1024, [&] { ran = std::this_thread::get_id(); });
    REQUIRE(ran == here);
    with_stack(kMiB, [&] { ran = std::this_thread::get_id(); });
    REQUIRE(ran != here);
}

TEST_CASE("large_stack: what the work throws reaches the caller") {
    for (const std::size_t bytes : {std::size_t{0}, kMiB})
        REQUIRE_THROWS_WITH_AS(with_stack(bytes, [] { throw std::out_of_range("too far"); }), "too far",
                               std::out_of_range);
}
