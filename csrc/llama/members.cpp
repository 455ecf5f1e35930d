#include "llama/members.h"

#include "colm/error.h"
#include "colm/types.h"

namespace colm::llama {
namespace {

// The file again only where no model before has loaded it.
std::shared_ptr<LlamaModel> load(const ModelOptions& options, const Models& before) {
    for (const auto& model : before)
        if (same_file(model->options(), options.batch_invariant ? reading_rows_alike(options) : options))
            return model->sibling(options);
    return std::make_shared<LlamaModel>(options);
}

}  // namespace

Models load_members(const std::vector<Member>& members, std::size_t n_remote) {
    const std::size_t n = members.size() + n_remote;
    require(!members.empty() && n >= 2 && n <= kMostExperts + 1,
            std::to_string(n) + " models were given; a pair has a base and 1 to " +
                std::to_string(kMostExperts) + " experts");
    Models models;
    for (const Member& member : members) {
        try {
            models.push_back(load(member.options, models));
        } catch (const LoadError& error) {
            if (n == 2) throw;
            throw LoadError(expert_in_words(member.name) + ": " + error.what());
        }
    }
    return models;
}

}  // namespace colm::llama
