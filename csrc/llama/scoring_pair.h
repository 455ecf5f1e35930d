// Loaded models that read many texts at a time and give the log-probabilities of their tokens.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "colm/scorer.h"
#include "colm/types.h"
#include "llama/members.h"
#include "llama/pair.h"
#include "llama/vocabularies.h"

namespace colm::llama {

class ScoringPair {
  public:
    using Texts = std::vector<ScoredText>;
    using OwnTexts = std::map<ExpertId, Texts>;

    // Loads the models, the base first, or makes contexts on the weights of those of the same names in a pair
    // that was loaded with the same options of weights. They stay when the pair goes. Throws OptionError,
    // LoadError, or VocabMismatch as Vocabularies does.
    explicit ScoringPair(const std::vector<Member>& members, const Pair* loaded = nullptr);

    // The scores of each model, the base first, with its hidden states. The experts' probes are the base's
    // likeliest tokens. `own`: of experts that read another prompt, the texts behind it; as many tokens are
    // scored in each. Requires one vocabulary. Errors are those of Scorer::score().
    std::vector<Scores> score(const Texts& texts, const OwnTexts& own, std::size_t top_k,
                              std::function<bool()> poll_interrupt);

    // What a pair that defers with `head` finds of the texts: of each model, the base first, the
    // log-probabilities, with the `n_likeliest` tokens at each position; of the base z, too. With `mixed`,
    // each model's probes are the others' likeliest tokens, in the order of the models. `seed` is that of the
    // random head. Requires a head with a score for each expert, and one vocabulary. Errors are those of
    // Scorer::score().
    std::vector<Scores> likelihoods(const Texts& texts, const Head& head, std::uint32_t seed,
                                    std::size_t n_likeliest, bool mixed,
                                    std::function<bool()> poll_interrupt);

    // The scores of one model, in texts of its own tokens. Errors are those of Scorer::score().
    Scores read(ExpertId expert, const Texts& texts, const Scorer::Wanted& wanted,
                std::function<bool()> poll_interrupt);
    // Throws as Scorer::check() does, before a model has read anything.
    void check(ExpertId expert, const Texts& texts) const;

    std::vector<Token> tokenize(const std::string& text, bool add_special, bool parse_special,
                                ExpertId expert = kBase) const;
    // The bytes of each token, control tokens as they are written. Throws TokenizeError for other ids.
    std::vector<std::string> pieces(const std::vector<Token>& tokens, ExpertId expert) const;

    const LlamaModel& base() const { return *models_.front(); }
    const Models& models() const { return models_; }
    const std::string& vocab_fingerprint() const { return fingerprint_; }
    const Vocabularies& vocabularies() const { return *vocabularies_; }

  private:
    Scorer& scorer(ExpertId expert) const;

    Models models_;
    std::unique_ptr<const Vocabularies> vocabularies_;
    std::string fingerprint_;
    std::vector<std::unique_ptr<Scorer>> scorers_;  // by expert
};

}  // namespace colm::llama
