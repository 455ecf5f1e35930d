#include "llama/scoring_pair.h"

#include <cstddef>
#include <utility>

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

// [n, k] of each of the models from `first` to `last`, as [n, k * models].
std::vector<Token> likeliest_of(const std::vector<Scores>& scores, std::size_t first, std::size_t last,
                                std::size_t k) {
    std::vector<Token> all;
    for (std::size_t at = 0; first < last && at < scores[first].likeliest.size(); at += k)
        for (std::size_t model = first; model < last; ++model) {
            const auto begin = scores[model].likeliest.begin() + static_cast<std::ptrdiff_t>(at);
            all.insert(all.end(), begin, begin + static_cast<std::ptrdiff_t>(k));
        }
    return all;
}

// [n, n_one] and [n, n_other] as [n, n_one + n_other]. Requires n_other > 0.
std::vector<float> rows_joined(const std::vector<float>& one, std::size_t n_one,
                               const std::vector<float>& other, std::size_t n_other) {
    std::vector<float> rows;
    for (std::size_t row = 0; row < other.size() / n_other; ++row) {
        const auto a = one.begin() + static_cast<std::ptrdiff_t>(row * n_one);
        const auto b = other.begin() + static_cast<std::ptrdiff_t>(row * n_other);
        rows.insert(rows.end(), a, a + static_cast<std::ptrdiff_t>(n_one));
        rows.insert(rows.end(), b, b + static_cast<std::ptrdiff_t>(n_other));
    }
    return rows;
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

std::vector<Scores> ScoringPair::likelihoods(const Texts& texts, const Head& head, std::uint32_t seed,
                                             std::size_t n_likeliest, bool mixed,
                                             std::function<bool()> poll_interrupt) {
    Interrupt interrupt(std::move(poll_interrupt));
    require(head.n_scores() == scorers_.size() - 1, "the head is for " + std::to_string(head.n_scores()) +
                                                        " experts, and there are " +
                                                        std::to_string(scorers_.size() - 1));
    require(vocabularies_->alike(), "likelihoods are known for models of one vocabulary");
    for (const auto& scorer : scorers_) scorer->check(texts);  // before one has read them
    mixed = mixed && n_likeliest > 0;
    Scorer::Wanted wanted;
    wanted.n_likeliest = n_likeliest;
    if (static_cast<std::size_t>(head.defer_token()) < vocabularies_->n_ids(kBase))
        wanted.excluded = head.defer_token();
    wanted.head = &head;
    wanted.seed = seed;
    std::vector<Scores> scores;
    std::vector<Token> probes;
    const auto read = [&](std::size_t model, std::size_t first, std::size_t last) {
        wanted.n_probes = (last - first) * n_likeliest;
        if (mixed) probes = likeliest_of(scores, first, last, n_likeliest);
        wanted.probes = {mixed && first < last ? probes.data() : nullptr, probes.size()};
        return scorers_[model]->score(texts, wanted, interrupt);
    };
    // A model can be asked about what those before it found likeliest.
    for (std::size_t model = 0; model < scorers_.size(); ++model) {
        scores.push_back(read(model, 0, model));
        wanted.head = nullptr;
    }
    if (!mixed) return scores;
    // About what those behind it found, only when they have found it.
    wanted.n_likeliest = 0;
    for (std::size_t model = 0; model + 1 < scorers_.size(); ++model) {
        const std::vector<float> more = read(model, model + 1, scorers_.size()).probe_logprob;
        scores[model].probe_logprob = rows_joined(scores[model].probe_logprob, model * n_likeliest, more,
                                                  (scorers_.size() - 1 - model) * n_likeliest);
    }
    return scores;
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
