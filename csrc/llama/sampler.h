// llama.cpp's sampler chain behind the method's Sampler.
#pragma once

#include <string>
#include <vector>

#include "colm/options.h"
#include "colm/sampler.h"
#include "llama/handles.h"

namespace colm::llama {

// The order is that of llama_cpp.Llama: logit bias, penalties, grammar; then greedy at temperature 0, else
// top-k, typical, top-p, min-p, temperature and the random draw. Penalties see the generated tokens only, as
// there.
class LlamaSampler final : public Sampler {
  public:
    // `n_choices`: ids from 0 that may be chosen. Throws OptionError for an option outside its range,
    // GrammarError for a grammar that cannot be parsed.
    LlamaSampler(const SamplingOptions& options, const llama_vocab* vocab, std::size_t n_choices);

    Token choose(View<const float> logits, const Distribution& distribution) override;
    std::string why_none() const override;
    void accept(Token token) override;

    // Throws OptionError for an option outside its range, whatever the model.
    static void check(const SamplingOptions& options);

  private:
    void add(llama_sampler* sampler);

    bool greedy_;
    bool constrained_ = false;  // bias, penalties or a grammar take part
    bool has_grammar_ = false;
    SamplerPtr constraints_;
    SamplerPtr choice_;
    std::vector<llama_token_data> candidates_;
};

}  // namespace colm::llama
