// The vocabularies of a pair's models: which of them are one, and what each allows.
#pragma once

#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "colm/decision.h"
#include "colm/shared_text.h"
#include "llama/members.h"
#include "llama/model.h"
#include "llama/vocab.h"

namespace colm::llama {

class Vocabularies {
  public:
    // Of models, the base first. `most_ids`: of the base's vocabulary, where an expert elsewhere has fewer.
    // Throws VocabMismatch where two are unlike and one of both is of a type that
    // gives no text back as it was.
    Vocabularies(const Models& models, const std::vector<std::string>& names,
                 std::size_t most_ids = std::numeric_limits<std::size_t>::max());

    // Whether all models have one vocabulary.
    bool alike() const { return all_.size() == 1; }
    bool same(ExpertId one, ExpertId other) const { return of_[one] == of_[other]; }
    // By expert: equal numbers are one vocabulary.
    const std::vector<std::size_t>& numbers() const { return of_; }

    // How many ids, from 0, the models with this expert's vocabulary share.
    std::size_t n_ids(ExpertId expert) const { return one(expert).common.n_shared; }
    // Those below that stand for no token, ascending.
    const std::vector<Token>& blocked(ExpertId expert) const { return one(expert).common.blocked; }
    // Those that end a text for one of these models, ascending.
    const std::vector<Token>& eog(ExpertId expert) const { return *one(expert).eog; }
    const llama_vocab* vocab(ExpertId expert) const { return one(expert).model->vocab(); }
    // How many different texts of tokens the vocabularies of both have, and how many each has.
    struct Overlap {
        std::size_t both, one, other;
    };
    Overlap overlap(ExpertId one, ExpertId other) const;
    Choices choices() const;
    // What a grammar sees; made by the first text with one.
    std::shared_ptr<const TokenTexts> texts(ExpertId expert) const;

    // What a step's token writes, and whether it ends the text. They outlive this object, but not the models.
    std::function<std::string(const Step&)> pieces() const;
    std::function<bool(const Step&)> ends_text() const;
    // By expert, as limits of a text: the control tokens among `stop`.
    std::vector<std::vector<Token>> stop_tokens(const std::vector<std::string>& stop) const;
    // Null where all are one. `prompts`: by expert.
    std::unique_ptr<SharedText> shared_text(const std::vector<std::vector<Token>>& prompts) const;

    // A prompt of the base's in the tokens of an expert: what it says, behind the expert's own BOS. Control
    // tokens stay those that the expert has under the same text.
    std::vector<Token> translated(const std::vector<Token>& prompt, ExpertId expert) const;

  private:
    struct One {
        std::shared_ptr<const LlamaModel> model;  // the first with it
        CommonVocabulary common;
        std::shared_ptr<const std::vector<Token>> eog;
        std::shared_ptr<const Tokenizer> tokenizer;  // null where all are one
        std::shared_ptr<std::once_flag> texts_made = std::make_shared<std::once_flag>();
        mutable std::shared_ptr<const TokenTexts> texts = nullptr;
    };

    const One& one(ExpertId expert) const { return all_[of_[expert]]; }
    std::size_t find(const Vocabulary& vocabulary, const std::string& name) const;

    std::vector<One> all_;  // that of the base first
    std::vector<std::size_t> of_;
};

}  // namespace colm::llama
