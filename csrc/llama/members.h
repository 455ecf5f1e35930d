// Loading models that go by names: a base and its experts.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "colm/vocabulary.h"
#include "llama/model.h"

namespace colm::llama {

// A model of a pair, and what the pair calls it.
struct Member {
    std::string name;
    ModelOptions options;
};

using Models = std::vector<std::shared_ptr<LlamaModel>>;

// Loads the models, the base first. A file that several have in common is in memory once. Throws OptionError
// where they are too few or too many, and for an option outside its range; LoadError, which names the expert
// where there are several.
Models load_members(const std::vector<Member>& members);

// What their vocabularies have in common. Throws VocabMismatch.
CommonVocabulary common_vocabulary(const Models& models, const std::vector<std::string>& names);

}  // namespace colm::llama
