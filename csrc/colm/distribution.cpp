#include "colm/distribution.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <utility>

#include "colm/error.h"

namespace colm {
namespace {

// The loops over the vocabulary are compiled twice, and the loader picks the one that the processor can run:
// half of a step's time outside llama.cpp is spent here. (Sanitizers are not ready when such functions are
// resolved.)
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define COLM_CLONES __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define COLM_CLONES
#endif

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
// Small enough for the block to be in the first-level cache when its exponentials are summed.
constexpr std::size_t kBlock = 1024;
constexpr std::size_t kLanes = 8;
// Of so many, the largest are kept in order while all are looked at; more are sorted.
constexpr std::size_t kKeptInOrder = 512;

// exp(x) for x <= 0 within 2e-7 of its value, 1e-38 below -87. libm's expf is not inlined, so compilers
// cannot vectorise a loop that calls it; over a vocabulary of 152,000 ids that is the difference between 0.5
// and 0.14 ms a step.
#if defined(__GNUC__)
__attribute__((always_inline))
#endif
inline float exp_nonpositive(float x) {
    constexpr float kLog2e = 1.44269504f;
    constexpr float kLn2High = 0.693359375f;
    constexpr float kLn2Low = -2.12194440e-4f;
    constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    x = x > -87.0f ? x : -87.0f;           // NaN too, which converts to no integer
    const float shifted = x * kLog2e + kRound;
    const float n = shifted - kRound;
    const float r = (x - n * kLn2High) - n * kLn2Low;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const std::int32_t exponent = (static_cast<std::int32_t>(n) + 127) * (1 << 23);
    float scale;
    std::memcpy(&scale, &exponent, sizeof scale);
    return p * scale;
}

struct Sums {
    double weight = 0.0;    // sum exp(x - top)
    double weighted = 0.0;  // sum (x - top) exp(x - top)
};

// Sums over `values`, relative to `top`, which none of them exceeds.
COLM_CLONES Sums sum_block(const float* values, std::size_t n, float top) {
    float weight[kLanes] = {};
    float weighted[kLanes] = {};
    std::size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        for (std::size_t lane = 0; lane < kLanes; ++lane) {
            const float x = std::max(values[i + lane] - top, -87.0f);
            const float e = exp_nonpositive(x);
            weight[lane] += e;
            weighted[lane] += x * e;
        }
    }
    Sums sums;
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
        sums.weight += weight[lane];
        sums.weighted += weighted[lane];
    }
    for (; i < n; ++i) {
        const float x = std::max(values[i] - top, -87.0f);
        const float e = exp_nonpositive(x);
        sums.weight += e;
        sums.weighted += x * e;
    }
    return sums;
}

COLM_CLONES float block_max(const float* values, std::size_t n) {
    float lanes[kLanes];
    std::fill(lanes, lanes + kLanes, kMinusInfinity);
    std::size_t i = 0;
    for (; i + kLanes <= n; i += kLanes)
        for (std::size_t lane = 0; lane < kLanes; ++lane)
            lanes[lane] = values[i + lane] > lanes[lane] ? values[i + lane] : lanes[lane];
    float best = *std::max_element(lanes, lanes + kLanes);
    for (; i < n; ++i) best = values[i] > best ? values[i] : best;
    return best;
}

// The k largest values seen, descending.
class TopK {
  public:
    explicit TopK(std::size_t k) : k_(k) { values_.reserve(k + 1); }

    float smallest() const { return values_.size() < k_ || k_ == 0 ? kMinusInfinity : values_.back(); }

    void add_block(const float* values, std::size_t n) {
        for (std::size_t i = 0; i < n; ++i) {
            if (!(values[i] > smallest())) continue;
            values_.insert(std::upper_bound(values_.begin(), values_.end(), values[i], std::greater<float>()),
                           values[i]);
            if (values_.size() > k_) values_.pop_back();
        }
    }

    std::vector<float> take() { return std::move(values_); }

  private:
    std::size_t k_;
    std::vector<float> values_;
};

}  // namespace

Distribution summarize(View<const float> logits, std::size_t k) {
    Distribution d;
    d.top_logit = kMinusInfinity;
    Sums rest;  // relative to d.top_logit, without the top itself
    TopK top_k(k);
    for (std::size_t begin = 0; begin < logits.size; begin += kBlock) {
        const float* block = logits.data + begin;
        const std::size_t n = std::min(kBlock, logits.size - begin);
        const float largest = block_max(block, n);
        if (k > 0 && largest > top_k.smallest()) top_k.add_block(block, n);
        if (largest > d.top_logit) {
            const auto at = static_cast<std::size_t>(std::find(block, block + n, largest) - block);
            if (d.top != kNoToken) {
                // The old top joins the rest, and everything is restated relative to the new one.
                const double shift = static_cast<double>(d.top_logit) - largest;
                const double scale = std::exp(shift);
                const double weight = rest.weight + 1.0;
                rest.weighted = scale * (rest.weighted + shift * weight);
                rest.weight = scale * weight;
            }
            d.top_logit = largest;
            d.top = static_cast<Token>(begin + at);
            const Sums before = sum_block(block, at, largest);
            const Sums after = sum_block(block + at + 1, n - at - 1, largest);
            rest.weight += before.weight + after.weight;
            rest.weighted += before.weighted + after.weighted;
        } else if (d.top != kNoToken) {
            const Sums sums = sum_block(block, n, d.top_logit);
            rest.weight += sums.weight;
            rest.weighted += sums.weighted;
        } else if (std::any_of(block, block + n, [](float x) { return std::isnan(x); })) {
            rest.weighted = std::numeric_limits<double>::quiet_NaN();
        }
    }
    if (d.top == kNoToken) throw GenerationError("no token can follow: every logit is -inf or NaN");
    // A NaN among the logits has made its way into the weighted sum.
    if (!std::isfinite(d.top_logit) || std::isnan(rest.weighted))
        throw GenerationError(std::string("the model returned a logit of ") +
                              (std::isfinite(d.top_logit) ? "nan" : "inf") + "; its file may be damaged");
    const double total = 1.0 + rest.weight;
    d.log_normalizer = d.top_logit + std::log(total);
    d.log_rest = d.top_logit + std::max(std::log(rest.weight), -87.0);
    d.entropy = std::max(0.0, std::log(total) - rest.weighted / total);
    d.top_logits = top_k.take();
    return d;
}

Distribution summarize(View<const Candidate> likeliest, double tail, std::size_t k) {
    if (likeliest.size == 0) throw GenerationError("no token can follow: the expert named none");
    Distribution d;
    d.top = likeliest[0].token;
    d.top_logit = likeliest[0].logit;
    double rest = tail;
    const auto surprise = [](double p) { return p > 0.0 ? -p * std::log(p) : 0.0; };
    d.entropy = surprise(tail);
    for (std::size_t i = 0; i < likeliest.size; ++i) {
        const double p = std::exp(static_cast<double>(likeliest[i].logit));
        if (!(p >= 0.0 && p <= 1.0 + 1e-3) || !(tail >= 0.0 && tail <= 1.0 + 1e-3))
            throw GenerationError("the expert gave a log-probability of " +
                                  std::to_string(likeliest[i].logit) + " and a rest of " +
                                  std::to_string(tail) + "; these are no probabilities");
        d.entropy += surprise(p);
        if (i > 0) rest += p;
        if (i < k) d.top_logits.push_back(likeliest[i].logit);
    }
    d.log_rest = d.top_logit + std::max(std::log(rest) - d.top_logit, -87.0);
    return d;
}

std::vector<Candidate> largest(View<const float> logits, std::size_t n) {
    std::vector<Candidate> best;
    n = std::min(n, logits.size);
    if (n == 0) return best;
    if (n > kKeptInOrder) {
        best.reserve(logits.size);
        for (std::size_t i = 0; i < logits.size; ++i)
            if (logits[i] > kMinusInfinity) best.push_back({static_cast<Token>(i), logits[i]});
        n = std::min(n, best.size());
        std::partial_sort(best.begin(), best.begin() + static_cast<std::ptrdiff_t>(n), best.end(),
                          [](const Candidate& a, const Candidate& b) {
                              return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
                          });
        best.resize(n);
        return best;
    }
    const auto smallest = [&] { return best.size() < n ? kMinusInfinity : best.back().logit; };
    const auto larger = [](const Candidate& a, const Candidate& b) { return a.logit > b.logit; };
    best.reserve(n + 1);
    for (std::size_t begin = 0; begin < logits.size; begin += kBlock) {
        const float* block = logits.data + begin;
        const std::size_t size = std::min(kBlock, logits.size - begin);
        // After the first few blocks hardly any has one of the largest.
        if (!(block_max(block, size) > smallest())) continue;
        for (std::size_t i = 0; i < size; ++i) {
            if (!(block[i] > smallest())) continue;
            const Candidate candidate{static_cast<Token>(begin + i), block[i]};
            best.insert(std::upper_bound(best.begin(), best.end(), candidate, larger), candidate);
            if (best.size() > n) best.pop_back();
        }
    }
    return best;
}

std::vector<TopLogprob> top_logprobs(View<const float> logits, const Distribution& distribution,
                                     std::size_t n) {
    std::vector<TopLogprob> best;
    for (const Candidate& candidate : largest(logits, n))
        best.push_back({candidate.token, candidate.logit - distribution.log_normalizer});
    return best;
}

}  // namespace colm
