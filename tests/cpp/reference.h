// The plainest double-precision code for what the method computes, and numbers to feed it with.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "colm/types.h"

namespace reference {

inline constexpr float kInf = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr double kInfD = std::numeric_limits<double>::infinity();
inline constexpr double kNanD = std::numeric_limits<double>::quiet_NaN();

#ifdef COLM_ALL_ROUNDS
inline constexpr bool kAllRounds = true;
#else
inline constexpr bool kAllRounds = false;
#endif

// How many of `n` random rounds there are, or of what is counted in them: by default a quarter.
constexpr std::uint32_t rounds(std::uint32_t n) { return kAllRounds ? n : n / 4; }

// The same numbers with every standard library: its distributions are not specified, its engines are.
class Random {
  public:
    explicit Random(std::uint32_t seed) : bits_(seed) {}

    // In [0, n).
    std::size_t below(std::size_t n) { return static_cast<std::size_t>(bits_()) % n; }
    // In [low, high).
    double between(double low, double high) {
        return low + (high - low) * static_cast<double>(bits_()) / 4294967296.0;
    }
    bool chance(double p) { return between(0.0, 1.0) < p; }

    std::vector<float> values(std::size_t n, double low, double high) {
        std::vector<float> all(n);
        for (float& value : all) value = static_cast<float>(between(low, high));
        return all;
    }

  private:
    std::mt19937 bits_;
};

template <typename T>
colm::View<const T> view(const std::vector<T>& values) {
    return {values.data(), values.size()};
}

inline std::size_t argmax(const std::vector<float>& logits) {
    return static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// log sum exp, of all but the ids in `without`.
inline double log_sum(const std::vector<float>& logits, std::size_t without = static_cast<std::size_t>(-1)) {
    const double top = logits[argmax(logits)];
    double sum = 0.0;
    for (std::size_t i = 0; i < logits.size(); ++i)
        if (i != without) sum += std::exp(static_cast<double>(logits[i]) - top);
    return top + std::log(sum);
}

inline std::vector<double> softmax(const std::vector<float>& logits) {
    const double norm = log_sum(logits);
    std::vector<double> p(logits.size());
    for (std::size_t i = 0; i < p.size(); ++i) p[i] = std::exp(static_cast<double>(logits[i]) - norm);
    return p;
}

inline double entropy(const std::vector<float>& logits) {
    double sum = 0.0;
    for (const double p : softmax(logits))
        if (p > 0.0) sum -= p * std::log(p);
    return sum;
}

inline double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }
inline double logit(double p) { return std::log(p / (1.0 - p)); }

}  // namespace reference
