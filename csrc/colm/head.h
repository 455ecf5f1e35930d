// What gives z_t, the deferral logit: P(Z_t = 1 | x_<t) = sigmoid(z_t) (Co-LLM, section 2, eq. 2). With K
// experts beside the base, a head gives z_1 to z_K, and P(Z_t = k | x_<t) is the softmax over [0, z_1, ..,
// z_K].
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "colm/distribution.h"
#include "colm/types.h"

namespace colm {

// All that a head may look at. Borrowed for the call.
struct HeadInput {
    const float* hidden = nullptr;               // h_t, [n_embd]; null unless needs_hidden()
    const Distribution* distribution = nullptr;  // the base's, with the n_top_logits() largest logits
    float token_logit = 0.0f;                    // the base's logit of defer_token()
    std::size_t position = 0;                    // tokens in x_<t, prompt included
    std::uint32_t seed = 0;                      // of the generation
};

class Head {
  public:
    virtual ~Head() = default;

    // The log-odds that the token is not the base's.
    virtual double defer_logit(const HeadInput& input) const = 0;
    // Of how many experts beside the base, and z of each.
    virtual std::size_t n_scores() const { return 1; }
    virtual void score(const HeadInput& input, double* scores) const { *scores = defer_logit(input); }

    // Whether the base has to read the text for it. A head that does not may look at position and seed alone.
    virtual bool needs_base() const { return true; }
    virtual bool needs_hidden() const { return false; }
    virtual std::size_t n_top_logits() const { return 0; }
    // A token of the vocabulary that serves as the head, and can therefore never be emitted.
    virtual Token defer_token() const { return kNoToken; }
};

// Features of the base's next-token distribution p, in natural logarithms.
enum class Feature : std::uint8_t {
    log_odds,       // log p1 - log(1 - p1), clipped to [-50, 50]
    entropy,        // -sum p log p
    margin,         // log p1 - log p2
    top_k_logprobs  // the k largest log p, descending
};

// log(e^z_1 + .. + e^z_K): the log-odds that one of them writes. Of a single one its z, bit for bit.
double any_of(View<const double> scores);
// log P(Z = k | Z > 0) of each, written over `scores`.
void shares_of(View<double> scores);

enum class Activation : std::uint8_t { relu, gelu, silu };

// One linear map. weight is [n_out, n_in], row-major.
struct HeadLayer {
    std::size_t n_in = 0;
    std::size_t n_out = 0;
    std::vector<float> weight;
    std::vector<float> bias;
};

// What a head file says beside its weights.
struct HeadInfo {
    std::string name;
    std::string kind;  // "linear" or "mlp"
    std::size_t n_embd = 0;
    Activation activation = Activation::relu;
    std::vector<Feature> features;
    std::size_t top_k = 0;
    std::string base_name;
    std::string assistant_name;
    // What a pair calls the experts of the outputs; empty: not said.
    std::vector<std::string> expert_names;
    std::string vocab_fingerprint;
    // SHA-256 and scale of each adapter that the base had; empty: none, nullopt: the file does not say.
    std::optional<std::vector<std::pair<std::string, float>>> base_adapters;
    std::optional<double> default_threshold;
    std::vector<float> rates;
    std::vector<float> thresholds;
    // How it was made, as JSON; "" where the file does not say.
    std::string training;
    std::string calibration;
};

// A learned head: h_t, and the features that `info` names, through one or more linear maps. The last one has
// an output for each expert.
class LearnedHead final : public Head {
  public:
    // Throws HeadError where the shapes do not chain from n_embd + n_features to 1 or more.
    LearnedHead(HeadInfo info, std::vector<HeadLayer> layers);

    double defer_logit(const HeadInput& input) const override;
    std::size_t n_scores() const override { return layers_.back().n_out; }
    void score(const HeadInput& input, double* scores) const override;
    bool needs_hidden() const override { return true; }
    std::size_t n_top_logits() const override;

    const HeadInfo& info() const { return info_; }
    const std::vector<HeadLayer>& layers() const { return layers_; }
    std::size_t n_features() const;

  private:
    std::vector<float> outputs(const HeadInput& input) const;

    HeadInfo info_;
    std::vector<HeadLayer> layers_;
};

// Writes the features into `out` [n_features], in the order of `features`.
void compute_features(const Distribution& distribution, const std::vector<Feature>& features,
                      std::size_t top_k, float* out);

// A token of the base's vocabulary: its logit is z_t (the reference implementation keeps theta as the last
// row of the output matrix).
class TokenHead final : public Head {
  public:
    explicit TokenHead(Token token) : token_(token) {}
    double defer_logit(const HeadInput& input) const override { return input.token_logit; }
    Token defer_token() const override { return token_; }

  private:
    Token token_;
};

// Defer probability 1 - p1, with p1 the base's top probability.
class ConfidenceHead final : public Head {
  public:
    double defer_logit(const HeadInput& input) const override { return -input.distribution->log_odds(); }
};

// Defer probability 1 - exp(-H): one minus the inverse perplexity of the base's distribution.
class EntropyHead final : public Head {
  public:
    double defer_logit(const HeadInput& input) const override;
};

// Defer probability uniform in (0, 1), a function of the seed and the position alone:
//   u = ((splitmix64(seed * 0x9E3779B97F4A7C15 + position) >> 11) + 0.5) * 2^-53
class RandomHead final : public Head {
  public:
    double defer_logit(const HeadInput& input) const override;
};

// The same at every position: +infinity is the assistant alone, -infinity the base alone.
class FixedHead final : public Head {
  public:
    explicit FixedHead(double defer_logit) : defer_logit_(defer_logit) {}
    double defer_logit(const HeadInput&) const override { return defer_logit_; }
    bool needs_base() const override { return false; }

  private:
    double defer_logit_;
};

// A head with one score that says when, for a pair with K experts: who is always the same.
class DirectedHead final : public Head {
  public:
    // `expert` is 1 to `n_experts`. Throws HeadError where `head` gives more than one score.
    DirectedHead(std::shared_ptr<const Head> head, ExpertId expert, std::size_t n_experts);

    double defer_logit(const HeadInput& input) const override { return head_->defer_logit(input); }
    std::size_t n_scores() const override { return n_experts_; }
    void score(const HeadInput& input, double* scores) const override;
    bool needs_base() const override { return head_->needs_base(); }
    bool needs_hidden() const override { return head_->needs_hidden(); }
    std::size_t n_top_logits() const override { return head_->n_top_logits(); }
    Token defer_token() const override { return head_->defer_token(); }
    const Head& head() const { return *head_; }

  private:
    std::shared_ptr<const Head> head_;
    ExpertId expert_;
    std::size_t n_experts_;
};

// The training-free head of that name ("confidence", "entropy", "random", "always", "never"), or null.
std::shared_ptr<const Head> make_training_free_head(const std::string& name);

}  // namespace colm
