#include "llama/scoring_pair.h"

#include "colm/error.h"
#include "llama/vocab.h"

namespace colm::llama {
namespace {

Models load(const std::vector<Member>& members, const Pair* loaded) {
    if (loaded == nullptr) return load_members(members);
    Models models;
    for (const Member& member : members) {
        ExpertId at = kBase;
        while (at < loaded->n_models() && loaded->name(at) != member.name) ++at;
        require(at < loaded->n_models(), "the loaded pair has no model " + member.name);
        models.push_back(std::make_shared<LlamaModel>(member.options, &loaded->model(at)));
    }
    return models;
}

}  // namespace

ScoringPair::ScoringPair(const std::vector<Member>& members, const Pair* loaded)
    : models_(load(members, loaded)) {
    std::vector<std::string> names;
    for (const Member& member : members) names.push_back(member.name);
    const CommonVocabulary common = common_vocabulary(models_, names);
    n_shared_ = common.n_shared;
    fingerprint_ = fingerprint(base().vocabulary());
    for (const auto& model : models_)
        scorers_.push_back(std::make_unique<Scorer>(model, n_shared_, common.blocked));
}

std::vector<Scores> ScoringPair::score(const Texts& texts, const OwnTexts& own, std::size_t top_k,
                                       std::function<bool()> poll_interrupt) {
    Interrupt interrupt(std::move(poll_interrupt));
    const auto texts_of = [&](ExpertId expert) -> const Texts& {
        const auto found = own.find(expert);
        return found == own.end() ? texts : found->second;
    };
    // Before the base has read them.
    for (ExpertId e = 1; e < scorers_.size(); ++e) scorers_[e]->check(texts_of(e));
    Scorer::Wanted wanted;
    wanted.top_k = top_k;
    wanted.hidden = true;
    std::vector<Scores> scores;
    scores.push_back(scorers_.front()->score(texts, wanted, interrupt));
    for (ExpertId e = 1; e < scorers_.size(); ++e) {
        wanted = {};
        wanted.probes = {scores.front().top.data(), scores.front().top.size()};
        scores.push_back(scorers_[e]->score(texts_of(e), wanted, interrupt));
    }
    return scores;
}

std::pair<Scores, Scores> ScoringPair::likelihoods(const Texts& texts, const Head& head, std::uint32_t seed,
                                                   std::size_t n_likeliest,
                                                   std::function<bool()> poll_interrupt) {
    Interrupt interrupt(std::move(poll_interrupt));
    require(scorers_.size() == 2, "likelihoods are known for a base and one expert, and there are " +
                                      std::to_string(scorers_.size() - 1));
    Scorer& of_base = *scorers_.front();
    Scorer& of_assistant = *scorers_.back();
    of_assistant.check(texts);  // before the base has read them
    Scorer::Wanted wanted;
    wanted.n_likeliest = n_likeliest;
    wanted.n_probes = n_likeliest;
    if (static_cast<std::size_t>(head.defer_token()) < n_shared_) wanted.excluded = head.defer_token();
    wanted.head = &head;
    wanted.seed = seed;
    Scores base = of_base.score(texts, wanted, interrupt);
    wanted.head = nullptr;
    if (n_likeliest > 0) wanted.probes = {base.likeliest.data(), base.likeliest.size()};
    Scores assistant = of_assistant.score(texts, wanted, interrupt);
    if (n_likeliest > 0) {
        // The base knows its probabilities of the assistant's tokens only where it has them before it.
        wanted.n_likeliest = 0;
        wanted.probes = {assistant.likeliest.data(), assistant.likeliest.size()};
        base.probe_logprob = of_base.score(texts, wanted, interrupt).probe_logprob;
    }
    return {std::move(base), std::move(assistant)};
}

std::vector<Token> ScoringPair::tokenize(const std::string& text, bool add_special,
                                         bool parse_special) const {
    return llama::tokenize(base().vocab(), text, add_special && base().vocabulary().add_bos, parse_special);
}

}  // namespace colm::llama
