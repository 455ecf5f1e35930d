#include "llama/huge_pages.h"

#include <fstream>
#include <string>

#include "check.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

using colm::llama::gives_huge_pages;
using colm::llama::HugePages;

TEST_CASE("huge_pages: are for those who ask unless the system says never") {
    REQUIRE(gives_huge_pages("always [madvise] never"));
    REQUIRE(gives_huge_pages("[always] madvise never"));
    REQUIRE(!gives_huge_pages("always madvise [never]"));
    REQUIRE(!gives_huge_pages(""));  // a system without them
}

#ifdef __linux__

namespace {

constexpr std::size_t kMb = std::size_t{1} << 20;

// A mapping between two pages that cannot be used, so that the system does not join it with another.
struct Mapping {
    explicit Mapping(std::size_t n) : size(n) {
        whole = mmap(nullptr, size + 2 * kMb, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        REQUIRE(whole != MAP_FAILED);
        data = static_cast<char*>(whole) + kMb;
        REQUIRE_EQ(mprotect(data, size, PROT_READ | PROT_WRITE), 0);
    }
    ~Mapping() { munmap(whole, size + 2 * kMb); }
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;

    // Of the page at `offset`.
    bool advised(std::size_t offset) const {
        const auto at = reinterpret_cast<std::uintptr_t>(data) + offset;
        std::ifstream maps("/proc/self/smaps");
        bool here = false;
        for (std::string line; std::getline(maps, line);) {
            std::size_t read = 0;
            const auto dash = line.find('-');
            if (dash != std::string::npos && dash >= 8 &&
                line.find_first_not_of("0123456789abcdef") == dash) {
                const auto begin = std::stoull(line, &read, 16);
                here = begin <= at && at < std::stoull(line.substr(dash + 1), nullptr, 16);
            } else if (here && line.rfind("VmFlags:", 0) == 0) {
                return line.find(" hg") != std::string::npos;
            }
        }
        return false;
    }

    std::size_t size;
    void* whole;
    char* data;
};

// Emulators of another processor do not pass the advice on to the system.
bool has_huge_pages() {
    std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
    std::string line;
    std::getline(file, line);
    if (!gives_huge_pages(line)) return false;
    const Mapping tried(2 * kMb);
    return madvise(tried.data, tried.size, MADV_HUGEPAGE) == 0 && tried.advised(0);
}

}  // namespace

TEST_CASE("huge_pages: are asked for in new large memory that holds nothing") {
    if (!has_huge_pages()) return;
    const Mapping old(40 * kMb);
    HugePages pages(true);
    const Mapping large(40 * kMb);
    const Mapping small(31 * kMb);
    const Mapping written(40 * kMb);
    for (std::size_t i = 0; i < written.size; i += 4 * kMb) written.data[i] = 1;
    const Mapping begun(48 * kMb);
    begun.data[0] = begun.data[8 * kMb] = 1;
    pages.advise();
    REQUIRE(large.advised(0));
    REQUIRE(large.advised(large.size - 1));
    REQUIRE(begun.advised(16 * kMb));
    REQUIRE(begun.advised(begun.size - 1));
    for (const Mapping* other : {&old, &small, &written})
        for (const std::size_t at : {std::size_t{0}, other->size - 1}) REQUIRE(!other->advised(at));
    REQUIRE(!begun.advised(0));
    REQUIRE(!begun.advised(4 * kMb));
    // Later memory at the next call.
    const Mapping later(40 * kMb);
    REQUIRE(!later.advised(0));
    pages.advise();
    REQUIRE(later.advised(0));
}

TEST_CASE("huge_pages: are not asked for where they are not wanted") {
    HugePages pages(false);
    const Mapping large(40 * kMb);
    pages.advise();
    REQUIRE(!large.advised(0));
}

#endif
