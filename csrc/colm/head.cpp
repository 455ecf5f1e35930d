#include "colm/head.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "colm/error.h"
#include "colm/random.h"

namespace colm {
namespace {

constexpr float kMaxLogOdds = 50.0f;

float activate(Activation activation, float x) {
    switch (activation) {
        case Activation::relu:
            return x > 0.0f ? x : 0.0f;
        case Activation::gelu:
            return 0.5f * x * (1.0f + std::erf(x * 0.70710678f));
        case Activation::silu:
            return x / (1.0f + std::exp(-x));
    }
    return x;
}

// Eight partial sums: compilers may not reorder float additions, so one sum would not be vectorised.
float dot(const float* a, const float* b, std::size_t n) {
    constexpr std::size_t kSums = 8;
    float lanes[kSums] = {};
    std::size_t i = 0;
    for (; i + kSums <= n; i += kSums)
        for (std::size_t lane = 0; lane < kSums; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
    float sum = 0.0f;
    for (const float lane : lanes) sum += lane;
    for (; i < n; ++i) sum += a[i] * b[i];
    return sum;
}

std::size_t count_features(const HeadInfo& info) {
    std::size_t n = 0;
    for (const Feature feature : info.features) n += feature == Feature::top_k_logprobs ? info.top_k : 1;
    return n;
}

}  // namespace

LearnedHead::LearnedHead(HeadInfo info, std::vector<HeadLayer> layers)
    : info_(std::move(info)), layers_(std::move(layers)) {
    if (layers_.empty()) throw HeadError("the head has no layers");
    std::size_t n_in = info_.n_embd + n_features();
    for (std::size_t i = 0; i < layers_.size(); ++i) {
        const HeadLayer& layer = layers_[i];
        const std::string name = "layer " + std::to_string(i) + " of the head";
        if (layer.n_in != n_in)
            throw HeadError(name + " takes " + std::to_string(layer.n_in) + " inputs; it is given " +
                            std::to_string(n_in));
        if (layer.n_out == 0 || layer.weight.size() != layer.n_in * layer.n_out ||
            layer.bias.size() != layer.n_out)
            throw HeadError(name + " has weights or biases of the wrong size");
        n_in = layer.n_out;
    }
    if (n_in > kMostExperts)
        throw HeadError("the head's last layer gives " + std::to_string(n_in) + " outputs; at most " +
                        std::to_string(kMostExperts) + " experts are possible");
    const std::size_t n_names = info_.expert_names.size();
    if (n_names != 0 && n_names != n_in)
        throw HeadError("the head gives " + std::to_string(n_in) + " scores and names " +
                        std::to_string(n_names) + " experts");
}

std::size_t LearnedHead::n_features() const { return count_features(info_); }

std::size_t LearnedHead::n_top_logits() const {
    std::size_t n = 0;
    for (const Feature feature : info_.features) {
        if (feature == Feature::margin) n = std::max<std::size_t>(n, 2);
        if (feature == Feature::top_k_logprobs) n = std::max(n, info_.top_k);
    }
    return n;
}

void compute_features(const Distribution& distribution, const std::vector<Feature>& features,
                      std::size_t top_k, float* out) {
    const auto logprob = [&](std::size_t rank) {
        // A vocabulary with fewer than top_k possible tokens repeats the last of them.
        const std::size_t at = std::min(rank, distribution.top_logits.size() - 1);
        return static_cast<float>(distribution.top_logits[at] - distribution.log_normalizer);
    };
    for (const Feature feature : features) {
        switch (feature) {
            case Feature::log_odds:
                *out++ = std::clamp(static_cast<float>(distribution.log_odds()), -kMaxLogOdds, kMaxLogOdds);
                break;
            case Feature::entropy:
                *out++ = static_cast<float>(distribution.entropy);
                break;
            case Feature::margin:
                *out++ = logprob(0) - logprob(1);
                break;
            case Feature::top_k_logprobs:
                for (std::size_t rank = 0; rank < top_k; ++rank) *out++ = logprob(rank);
                break;
        }
    }
}

double any_of(View<const double> scores) {
    const double most = *std::max_element(scores.begin(), scores.end());
    double sum = 0.0;
    for (const double z : scores) {
        if (std::isnan(z)) return z;
        sum += std::exp(z - most);
    }
    return scores.size == 1 || std::isinf(most) ? most : most + std::log(sum);
}

void shares_of(View<double> scores) {
    const double all = any_of({scores.data, scores.size});
    const auto n_infinite = static_cast<double>(std::count(scores.begin(), scores.end(), all));
    // Infinite ones share alike, and so do those that are never asked.
    for (double& z : scores)
        z = std::isinf(all) ? (z == all ? -std::log(n_infinite) : -std::numeric_limits<double>::infinity())
                            : z - all;
}

double LearnedHead::defer_logit(const HeadInput& input) const {
    std::vector<double> scores(n_scores());
    score(input, scores.data());
    return any_of({scores.data(), scores.size()});
}

void LearnedHead::score(const HeadInput& input, double* scores) const {
    const std::vector<float> values = outputs(input);
    std::copy(values.begin(), values.end(), scores);
}

std::vector<float> LearnedHead::outputs(const HeadInput& input) const {
    const HeadLayer& first = layers_.front();
    std::vector<float> features(n_features());
    compute_features(*input.distribution, info_.features, info_.top_k, features.data());

    std::vector<float> values(first.n_out);
    for (std::size_t row = 0; row < first.n_out; ++row) {
        const float* weight = first.weight.data() + row * first.n_in;
        values[row] = first.bias[row] + dot(weight, input.hidden, info_.n_embd) +
                      dot(weight + info_.n_embd, features.data(), features.size());
    }
    for (std::size_t i = 1; i < layers_.size(); ++i) {
        for (float& value : values) value = activate(info_.activation, value);
        const HeadLayer& layer = layers_[i];
        std::vector<float> next(layer.n_out);
        for (std::size_t row = 0; row < layer.n_out; ++row)
            next[row] =
                layer.bias[row] + dot(layer.weight.data() + row * layer.n_in, values.data(), layer.n_in);
        values = std::move(next);
    }
    return values;
}

DirectedHead::DirectedHead(std::shared_ptr<const Head> head, ExpertId expert, std::size_t n_experts)
    : head_(std::move(head)), expert_(expert), n_experts_(n_experts) {
    if (head_->n_scores() != 1)
        throw HeadError("the head chooses among " + std::to_string(head_->n_scores()) +
                        " experts by itself; name none beside it");
    if (expert == kBase || expert > n_experts)
        throw HeadError("expert " + std::to_string(expert) + " is none of the " + std::to_string(n_experts));
}

void DirectedHead::score(const HeadInput& input, double* scores) const {
    std::fill_n(scores, n_experts_, -std::numeric_limits<double>::infinity());
    scores[expert_ - 1] = head_->defer_logit(input);
}

double EntropyHead::defer_logit(const HeadInput& input) const {
    // logit(1 - e^-H) = log(e^H - 1)
    return std::log(std::expm1(input.distribution->entropy));
}

double RandomHead::defer_logit(const HeadInput& input) const {
    const std::uint64_t bits = splitmix64(input.seed * 0x9E3779B97F4A7C15ULL + input.position);
    const double u = uniform(bits);
    return std::log(u) - std::log1p(-u);
}

std::shared_ptr<const Head> make_training_free_head(const std::string& name) {
    if (name == "confidence") return std::make_shared<ConfidenceHead>();
    if (name == "entropy") return std::make_shared<EntropyHead>();
    if (name == "random") return std::make_shared<RandomHead>();
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    if (name == "always") return std::make_shared<FixedHead>(kInfinity);
    if (name == "never") return std::make_shared<FixedHead>(-kInfinity);
    return nullptr;
}

}  // namespace colm
