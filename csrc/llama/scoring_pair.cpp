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
    vocabularies_ = std::make_unique<const Vocabularies>(models_, names);
    fingerprint_ = fingerprint(base().vocabulary());
    for (ExpertId e = 0; e < models_.size(); ++e)
        scorers_.push_back(
            std::make_unique<Scorer>(models_[e], vocabularies_->n_ids(e), vocabularies_->blocked(e)));
}

Scorer& ScoringPair::scorer(ExpertId expert) const {
    require(expert < scorers_.size(), "there is no model " + std::to_string(expert));
    return *scorers_[expert];
}

Scores ScoringPair::read(ExpertId expert, const Texts& texts, const Scorer::Wanted& wanted,
                         std::function<bool()> poll_interrupt) {
    Interrupt interrupt(std::move(poll_interrupt));
    return scorer(expert).score(texts, wanted, interrupt);
}

void ScoringPair::check(ExpertId expert, const Texts& texts) const { scorer(expert).check(texts); }

std::vector<Scores> ScoringPair::score(const Texts& texts, const OwnTexts& own, std::size_t top_k,
                                       std::function<bool()> poll_interrupt) {
    Interrupt interrupt(std::move(poll_interrupt));
    require(vocabularies_->alike(), "these models have unlike vocabularies; each reads its own tokens");
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
    require(vocabularies_->alike(), "likelihoods are known for models of one vocabulary");
    Scorer& of_base = *scorers_.front();
    Scorer& of_assistant = *scorers_.back();
    of_assistant.check(texts);  // before the base has read them
    Scorer::Wanted wanted;
    wanted.n_likeliest = n_likeliest;
    wanted.n_probes = n_likeliest;
    if (static_cast<std::size_t>(head.defer_token()) < vocabularies_->n_ids(kBase))
        wanted.excluded = head.defer_token();
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

std::vector<Token> ScoringPair::tokenize(const std::string& text, bool add_special, bool parse_special,
                                         ExpertId expert) const {
    require(expert < models_.size(), "there is no model " + std::to_string(expert));
    const LlamaModel& model = *models_[expert];
    return llama::tokenize(model.vocab(), text, add_special && model.vocabulary().add_bos, parse_special);
}

std::vector<std::string> ScoringPair::pieces(const std::vector<Token>& tokens, ExpertId expert) const {
    require(expert < models_.size(), "there is no model " + std::to_string(expert));
    std::vector<std::string> found;
    found.reserve(tokens.size());
    for (const Token token : tokens) {
        if (token < 0 || static_cast<std::size_t>(token) >= models_[expert]->vocabulary().size())
            throw TokenizeError("there is no token " + std::to_string(token) + " in this vocabulary");
        found.push_back(piece(vocabularies_->vocab(expert), token, true));
    }
    return found;
}

}  // namespace colm::llama
