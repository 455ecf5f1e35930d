#include "llama/huge_pages.h"

#include <algorithm>
#include <cinttypes>
#include <cstddef>
#include <cstdio>
#include <fstream>
#include <iterator>

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace colm::llama {

bool gives_huge_pages(const std::string& setting) {
    return setting.find("[always]") != std::string::npos || setting.find("[madvise]") != std::string::npos;
}

#ifdef __linux__

namespace {

constexpr auto kLarge = static_cast<std::uintptr_t>(HugePages::kLeast);

std::string line_of(const char* path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

// Of the memory in between, what holds nothing yet: not what others wrote before the system joined their
// mappings with this one.
void advise_between(std::uintptr_t begin, std::uintptr_t end) {
    if (end < begin + kLarge) return;
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t n = (end - begin) / page;
    std::vector<unsigned char> written(n + 1, 1);
    if (mincore(reinterpret_cast<void*>(begin), n * page, written.data()) != 0) return;
    std::size_t first = 0;
    for (std::size_t i = 0; i <= n; ++i) {
        if ((written[i] & 1) == 0) continue;
        // It is a wish, and may be refused.
        if ((i - first) * page >= kLarge)
            madvise(reinterpret_cast<void*>(begin + first * page), (i - first) * page, MADV_HUGEPAGE);
        first = i + 1;
    }
}

}  // namespace

HugePages::HugePages(bool wanted)
    : active_(wanted && gives_huge_pages(line_of("/sys/kernel/mm/transparent_hugepage/enabled"))) {
    if (active_) before_ = mappings();
}

// Private memory that can be written and is no file's.
std::vector<HugePages::Range> HugePages::mappings() {
    std::vector<Range> found;
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
        std::uintptr_t begin = 0;
        std::uintptr_t end = 0;
        char kind[5] = {};
        unsigned long inode = 0;
        int name = 0;
        if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " %4s %*x %*x:%*x %lu %n", &begin, &end, kind,
                        &inode, &name) < 4)
            continue;
        const std::string path = line.substr(std::min(static_cast<std::size_t>(name), line.size()));
        const bool anonymous = inode == 0 && (path.empty() || path.rfind("[anon", 0) == 0);
        if (anonymous && std::string(kind) == "rw-p") found.emplace_back(begin, end);
    }
    return found;
}

void HugePages::advise() {
    if (!active_) return;
    const std::vector<Range> now = mappings();
    // The system joins neighbours, so that a mapping may be old in part.
    for (auto [begin, end] : now) {
        for (const auto& [old_begin, old_end] : before_) {
            if (old_end <= begin || old_begin >= end) continue;
            advise_between(begin, old_begin);
            begin = std::min(old_end, end);
        }
        advise_between(begin, end);
    }
    before_ = now;
}

#else

HugePages::HugePages(bool) : active_(false) {}

std::vector<HugePages::Range> HugePages::mappings() { return {}; }

void HugePages::advise() {}

#endif

}  // namespace colm::llama
