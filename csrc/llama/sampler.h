// llama.cpp's sampler chain, and grammars, behind the method's Sampler.
#pragma once

#include <llama-cpp.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "colm/grammar_matcher.h"
#include "colm/options.h"
#include "colm/sampler.h"
#include "llama/vocab.h"

namespace colm::llama {

// The order is that of llama_cpp.Llama: logit bias, penalties, grammar; then greedy at temperature 0, else
// top-n-sigma, top-k, typical, top-p, min-p, temperature and the random draw. Penalties see the generated
// tokens only, as there.
//
// The draw adds Gumbel noise to the logits and takes the largest (Gumbel-max): noise that is a function of
// seed, position and token alone, so that two models with nearly the same distribution draw the same token,
// and a token drawn twice is the same token.
class LlamaSampler final : public Sampler {
  public:
    // `n_choices`: ids from 0 that may be chosen. Throws OptionError for an option outside its range,
    // GrammarError for a grammar that cannot be parsed.
    // `texts`: of the vocabulary; needed where there is a grammar.
    LlamaSampler(const SamplingOptions& options, const llama_vocab* vocab, std::size_t n_choices,
                 std::shared_ptr<const TokenTexts> texts = nullptr);

    Token choose(View<const float> logits, const Distribution& distribution, std::size_t position) override;
    std::string why_none() const override;
    void accept(Token token) override;
    void follow(const std::string& bytes, View<const Token> written) override;
    // Whether the grammar means tokens by their ids.
    bool names_tokens() const { return names_tokens_; }
    std::unique_ptr<Sampler> snapshot() const override;

    // Throws OptionError for an option outside its range, whatever the model.
    static void check(const SamplingOptions& options);

  private:
    // A chain of llama.cpp's, of which a copy is a clone.
    struct Chain : llama_sampler_ptr {
        Chain() = default;
        Chain(const Chain& other) : llama_sampler_ptr(other ? llama_sampler_clone(other.get()) : nullptr) {}
    };
    // Room to work in. A copy begins with none.
    struct Room : std::vector<llama_token_data> {
        Room() = default;
        Room(const Room&) : std::vector<llama_token_data>() {}
    };

    LlamaSampler(const LlamaSampler& other) = default;
    static void add(Chain& chain, llama_sampler* sampler);
    void write_down(View<const float> logits);
    void write_down(View<const float> logits, std::size_t n);
    void apply(llama_sampler& sampler);
    void ask_grammar();
    std::size_t draw(const llama_token_data_array& candidates, std::size_t position) const;

    bool greedy_;
    double temperature_;
    std::uint32_t seed_;
    std::size_t few_ = 0;  // top-k, where it is small; else 0
    // The tokens that bias and penalties can change: those with a bias, and the last ones written.
    std::vector<Token> biased_;
    std::size_t n_recent_ = 0;
    std::deque<Token> recent_;
    Chain adjustments_;  // bias and penalties; null where there are none
    std::shared_ptr<const TokenTexts> texts_;
    std::optional<GrammarMatcher> grammar_;
    bool names_tokens_ = false;
    Chain first_;  // rules candidates out, and has to see all of them; null where nothing does
    Chain choice_;
    Room candidates_;
};

}  // namespace colm::llama
