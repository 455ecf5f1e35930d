// Random bits that are a function of what they are for, the same on every machine.
#pragma once

#include <cstdint>

namespace colm {

// Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014).
inline std::uint64_t splitmix64(std::uint64_t x) {
    x += 0x9E3779B97F4A7C15ULL;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
    return x ^ (x >> 31);
}

// Uniform in (0, 1).
inline double uniform(std::uint64_t bits) { return (static_cast<double>(bits >> 11) + 0.5) * 0x1p-53; }

}  // namespace colm
