// Loading models that go by names: a base and its experts.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "colm/remote_expert.h"
#include "llama/model.h"

namespace colm::llama {

// A model of a pair, and what the pair calls it.
struct Member {
    std::string name;
    ModelOptions options;
};

// An expert elsewhere, whose vocabulary is the base's.
struct RemoteMember {
    std::string name;
    ExpertId id = 1;  // its place among all models
    std::shared_ptr<RemoteCalls> calls;
    std::size_t n_ctx = 0;
    std::size_t n_counts = 1;  // the most distributions in one call
    std::size_t n_ids = 0;     // of its vocabulary; 0: unknown
    bool replaceable = false;  // whether a text goes on without it where it fails
};

using Models = std::vector<std::shared_ptr<LlamaModel>>;

// Loads the models, the base first. A file that several have in common is in memory once. `n_remote`: experts
// elsewhere beside them. Throws OptionError where they are too few or too many, and for an option outside its
// range; LoadError, which names the expert where there are several.
Models load_members(const std::vector<Member>& members, std::size_t n_remote = 0);

}  // namespace colm::llama
