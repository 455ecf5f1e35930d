// Two loaded models that read many texts at a time and give the log-probabilities of their tokens.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "colm/scorer.h"
#include "llama/model.h"
#include "llama/pair.h"

namespace colm::llama {

class ScoringPair {
  public:
    // Loads both models, or makes contexts on the weights of a pair that was loaded with the same options of
    // weights. They stay when the pair goes. Throws OptionError, LoadError or VocabMismatch.
    ScoringPair(const ModelOptions& base, const ModelOptions& assistant, const Pair* loaded = nullptr);

    // The base's scores, with its hidden states, and the assistant's; the assistant's probes are the base's
    // likeliest tokens. Errors are those of Scorer::score().
    std::pair<Scores, Scores> score(const std::vector<ScoredText>& texts, std::size_t top_k,
                                    std::function<bool()> poll_interrupt);

    // What a pair that defers with `head` finds of the texts: of both models the log-probabilities, with the
    // `n_likeliest` tokens at each position, z, and each model's log-probabilities of the other's likeliest
    // tokens. `seed` is that of the random head. Errors are those of Scorer::score().
    std::pair<Scores, Scores> likelihoods(const std::vector<ScoredText>& texts, const Head& head,
                                          std::uint32_t seed, std::size_t n_likeliest,
                                          std::function<bool()> poll_interrupt);

    std::vector<Token> tokenize(const std::string& text, bool add_special, bool parse_special) const;

    const LlamaModel& base() const { return *base_; }
    const LlamaModel& assistant() const { return *assistant_; }
    const std::string& vocab_fingerprint() const { return fingerprint_; }
    std::size_t n_shared() const { return n_shared_; }

  private:
    std::shared_ptr<LlamaModel> base_;
    std::shared_ptr<LlamaModel> assistant_;
    std::size_t n_shared_;
    std::string fingerprint_;
    std::unique_ptr<Scorer> base_scorer_;
    std::unique_ptr<Scorer> assistant_scorer_;
};

}  // namespace colm::llama
