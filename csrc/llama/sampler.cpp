#include "llama/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "colm/error.h"
#include "colm/random.h"

namespace colm::llama {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// So many largest logits are found one by one faster than by sorting all.
constexpr int kFew = 256;
// And those with the tokens that bias and penalties can change.
constexpr std::size_t kMostPicked = kFew + 64;

llama_sampler* new_chain() {
    llama_sampler_chain_params params = llama_sampler_chain_default_params();
    params.no_perf = true;
    return llama_sampler_chain_init(params);
}

}  // namespace

void LlamaSampler::check(const SamplingOptions& o) {
    check_ranges(o);
    for (const auto& [token, bias] : o.logit_bias) {
        if (std::isfinite(bias) || bias == kMinusInfinity) continue;
        throw OptionError("the logit_bias of token " + std::to_string(token) + " is " + std::to_string(bias) +
                          "; it must be a finite number, or -inf to ban the token");
    }
}

LlamaSampler::LlamaSampler(const SamplingOptions& o, const llama_vocab* vocab, std::size_t n_choices,
                           std::shared_ptr<const TokenTexts> texts)
    : greedy_(o.temperature == 0.0f), temperature_(o.temperature), seed_(o.seed), texts_(std::move(texts)) {
    check(o);
    if (o.top_k > 0 && o.top_k <= kFew) few_ = static_cast<std::size_t>(o.top_k);
    for (const auto& entry : o.logit_bias) {
        if (entry.first < 0 || static_cast<std::size_t>(entry.first) >= n_choices)
            throw OptionError("logit_bias names token " + std::to_string(entry.first) + "; ids from 0 to " +
                              std::to_string(n_choices - 1) + " can be chosen");
    }
    choice_.reset(new_chain());
    if (!o.logit_bias.empty()) {
        std::vector<llama_logit_bias> bias;
        for (const auto& [token, value] : o.logit_bias) {
            bias.push_back({token, value});
            biased_.push_back(token);
        }
        add(adjustments_, llama_sampler_init_logit_bias(llama_vocab_n_tokens(vocab),
                                                        static_cast<std::int32_t>(bias.size()), bias.data()));
    }
    if (o.penalty_last_n > 0 &&
        (o.repeat_penalty != 1.0f || o.frequency_penalty != 0.0f || o.presence_penalty != 0.0f)) {
        n_recent_ = static_cast<std::size_t>(o.penalty_last_n);
        add(adjustments_,
            llama_sampler_init_penalties(llama_vocab_n_tokens(vocab), o.penalty_last_n, o.repeat_penalty,
                                         o.frequency_penalty, o.presence_penalty));
    }
    if (!o.grammar.empty()) {
        const auto find = [this](const std::string& text) { return texts_->find(text); };
        auto grammar = std::make_shared<const Grammar>(Grammar::parse(o.grammar, find, texts_->size()));
        names_tokens_ = grammar->names_tokens();
        grammar_.emplace(std::move(grammar));
    }
    if (greedy_) {
        llama_sampler_chain_add(choice_.get(), llama_sampler_init_greedy());
        return;
    }
    if (o.top_n_sigma > 0.0f) add(first_, llama_sampler_init_top_n_sigma(o.top_n_sigma));
    // top-k is the first here: choose() leaves out what it would drop before the chain sees it.
    for (llama_sampler* sampler :
         {llama_sampler_init_top_k(o.top_k), llama_sampler_init_typical(o.typical_p, 1),
          llama_sampler_init_top_p(o.top_p, 1), llama_sampler_init_min_p(o.min_p, 1)})
        llama_sampler_chain_add(choice_.get(), sampler);
}

std::unique_ptr<Sampler> LlamaSampler::snapshot() const {
    if (!adjustments_ && !grammar_) return nullptr;
    return std::unique_ptr<Sampler>(new LlamaSampler(*this));
}

void LlamaSampler::add(Chain& chain, llama_sampler* sampler) {
    if (!chain) chain.reset(new_chain());
    llama_sampler_chain_add(chain.get(), sampler);
}

// The place of the candidate with the largest noisy logit. In float, a small temperature would make every
// positive logit infinite; in double no two floats have too large a quotient. Where the noise is lost beside
// it, this is the greedy choice, the first of equals included.
std::size_t LlamaSampler::draw(const llama_token_data_array& candidates, std::size_t position) const {
    const std::uint64_t key = splitmix64((std::uint64_t{seed_} << 32) ^ position);
    std::size_t best = 0;
    double best_value = -std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < candidates.size; ++i) {
        const llama_token_data& candidate = candidates.data[i];
        const double u = uniform(splitmix64(key ^ static_cast<std::uint64_t>(candidate.id)));
        const double value = candidate.logit / temperature_ - std::log(-std::log(u));
        if (value > best_value || (value == best_value && candidate.id < candidates.data[best].id)) {
            best_value = value;
            best = i;
        }
    }
    return best;
}

// All tokens that can follow, with bias and penalties.
void LlamaSampler::write_down(View<const float> logits) {
    candidates_.clear();
    for (std::size_t i = 0; i < logits.size; ++i)
        if (logits[i] != kMinusInfinity) candidates_.push_back({static_cast<Token>(i), logits[i], 0.0f});
    if (adjustments_) apply(*adjustments_);
}

// Only the `n` likeliest of them, largest first.
void LlamaSampler::write_down(View<const float> logits, std::size_t n) {
    // Of those that bias and penalties leave alone, none below so many others can be among the `n`.
    std::vector<Token> adjusted(biased_);
    adjusted.insert(adjusted.end(), recent_.begin(), recent_.end());
    std::sort(adjusted.begin(), adjusted.end());
    adjusted.erase(std::unique(adjusted.begin(), adjusted.end()), adjusted.end());
    if (n + adjusted.size() > kMostPicked) {
        write_down(logits);
    } else {
        candidates_.clear();
        for (const Candidate& candidate : largest(logits, n + adjusted.size()))
            if (!std::binary_search(adjusted.begin(), adjusted.end(), candidate.token))
                candidates_.push_back({candidate.token, candidate.logit, 0.0f});
        for (const Token token : adjusted) {
            const float logit = logits[static_cast<std::size_t>(token)];
            if (logit != kMinusInfinity) candidates_.push_back({token, logit, 0.0f});
        }
        if (adjustments_) apply(*adjustments_);
    }
    n = std::min(n, candidates_.size());
    const auto before = [](const llama_token_data& a, const llama_token_data& b) {
        return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
    };
    std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(n),
                      candidates_.end(), before);
    candidates_.resize(n);
}

void LlamaSampler::apply(llama_sampler& sampler) {
    llama_token_data_array array{candidates_.data(), candidates_.size(), -1, false};
    llama_sampler_apply(&sampler, &array);
    // What was ruled out must be gone before the chain divides by sums of probabilities.
    const auto impossible = [](const llama_token_data& c) {
        return c.logit == kMinusInfinity || std::isnan(c.logit);
    };
    candidates_.erase(std::remove_if(candidates_.begin(), candidates_.end(), impossible), candidates_.end());
}

// Leaves the candidates that the grammar allows.
void LlamaSampler::ask_grammar() {
    if (!grammar_) return;
    const auto refused = [&](const llama_token_data& c) {
        return texts_->ends_text(c.id) ? !grammar_->may_end() : !grammar_->allows(c.id, (*texts_)[c.id]);
    };
    candidates_.erase(std::remove_if(candidates_.begin(), candidates_.end(), refused), candidates_.end());
}

Token LlamaSampler::choose(View<const float> logits, const Distribution& distribution, std::size_t position) {
    // llama.cpp's greedy sampler takes the first of the largest logits, which the summary already found.
    if (greedy_ && !adjustments_ && !grammar_) return distribution.top;

    // What the chain keeps of all candidates: one, or what a small top-k does. It is found without sorting a
    // vocabulary, and without asking the grammar about all of it, which takes as long as a small model does.
    const std::size_t needed = greedy_ ? 1 : first_ ? 0 : few_;
    if (grammar_) grammar_->begin_step();
    if (needed > 0) {
        write_down(logits, grammar_ ? static_cast<std::size_t>(kFew) : needed);
        ask_grammar();
    }
    if (needed == 0 || (grammar_ && candidates_.size() < needed)) {
        write_down(logits);
        ask_grammar();
    }
    if (candidates_.empty()) return kNoToken;
    if (first_) apply(*first_);
    llama_token_data_array array{candidates_.data(), candidates_.size(), -1, false};
    llama_sampler_apply(choice_.get(), &array);
    if (!greedy_ && array.size > 0) array.selected = static_cast<std::int64_t>(draw(array, position));
    if (array.selected < 0 || static_cast<std::size_t>(array.selected) >= array.size)
        throw GenerationError("llama.cpp's sampler chose no token; loosen the sampling options");
    return array.data[array.selected].id;
}

std::string LlamaSampler::why_none() const {
    return grammar_ ? "no token of the vocabulary continues the text as the grammar asks; loosen the grammar"
                    : "logit_bias bans every token that could follow; ban fewer";
}

void LlamaSampler::accept(Token token) {
    if (adjustments_) llama_sampler_accept(adjustments_.get(), token);
    if (n_recent_ > 0) {
        recent_.push_back(token);
        if (recent_.size() > n_recent_) recent_.pop_front();
    }
    if (grammar_ && !texts_->ends_text(token)) {
        grammar_->begin_step();
        if (!grammar_->accept(token, (*texts_)[token]))
            throw GenerationError("the grammar refused its own token " + std::to_string(token));
    }
    llama_sampler_accept(choice_.get(), token);
}

void LlamaSampler::follow(const std::string& bytes, View<const Token> written) {
    if (n_recent_ > 0) {
        llama_sampler_reset(adjustments_.get());
        const std::size_t n = std::min(n_recent_, written.size);
        recent_.assign(written.end() - n, written.end());
        for (const Token token : recent_) llama_sampler_accept(adjustments_.get(), token);
    }
    if (!grammar_ || bytes.empty()) return;
    grammar_->begin_step();
    if (!grammar_->accept(kNoToken, bytes))
        throw GenerationError("the grammar refused what a model with another vocabulary wrote under it");
}

}  // namespace colm::llama
