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

std::vector<Scores> ScoringPair::likelihoods(const Texts& texts, const Head& head, std::uint32_t seed,
                                             std::size_t n_likeliest, bool mixed,
                                             std::function<bool()> poll_interrupt) {
    Interrupt interrupt(std::move(poll_interrupt));
    require(head.n_scores() == scorers_.size() - 1, "the head is for " + std::to_string(head.n_scores()) +
                                                        " experts, and there are " +
                                                        std::to_string(scorers_.size() - 1));
    for (const auto& scorer : scorers_) scorer->check(texts);  // before one has read them
    mixed = mixed && n_likeliest > 0;
    Scorer::Wanted wanted;
    wanted.n_likeliest = n_likeliest;
    if (static_cast<std::size_t>(head.defer_token()) < n_shared_) wanted.excluded = head.defer_token();
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

std::vector<Token> ScoringPair::tokenize(const std::string& text, bool add_special,
                                         bool parse_special) const {
    return llama::tokenize(base().vocab(), text, add_special && base().vocabulary().add_bos, parse_special);
}

}  // namespace colm::llama
