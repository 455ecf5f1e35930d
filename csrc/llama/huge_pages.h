// Huge pages for what llama.cpp allocates, where the system gives them to those who ask (Linux).
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace colm::llama {

// Every token reads all weights. In pages of 4 kB nearly each page read misses the TLB.
class HugePages {
  public:
    // Smaller mappings get none: the C library maps what is larger by itself, whatever was allocated before
    // (DEFAULT_MMAP_THRESHOLD_MAX).
    static constexpr std::uint64_t kLeast = std::uint64_t{32} << 20;  // bytes

    // Notes what is mapped, which takes milliseconds where much is. Where they are not wanted, or cannot be
    // had, this object does nothing.
    explicit HugePages(bool wanted);

    // Asks for huge pages in every large anonymous mapping that was made since, or since the last call, and
    // holds nothing yet.
    void advise();

  private:
    using Range = std::pair<std::uintptr_t, std::uintptr_t>;  // begin, end

    static std::vector<Range> mappings();

    bool active_;
    std::vector<Range> before_;  // ascending
};

// Whether /sys/kernel/mm/transparent_hugepage/enabled, which says for example "always [madvise] never", lets
// those have huge pages who ask.
bool gives_huge_pages(const std::string& setting);

}  // namespace colm::llama
