#include "llama/scoring_pair.h"

#include "llama/vocab.h"

namespace colm::llama {

ScoringPair::ScoringPair(const ModelOptions& base, const ModelOptions& assistant, const Pair* loaded)
    : base_(std::make_shared<LlamaModel>(base, loaded == nullptr ? nullptr : &loaded->base())),
      assistant_(std::make_shared<LlamaModel>(assistant, loaded == nullptr ? nullptr : &loaded->model(1))) {
    n_shared_ = shared_vocabulary(base_->vocabulary(), assistant_->vocabulary());
    fingerprint_ = fingerprint(base_->vocabulary());
    const std::vector<Token> blocked =
        padding_inside(base_->vocabulary(), assistant_->vocabulary(), n_shared_);
    base_scorer_ = std::make_unique<Scorer>(base_, n_shared_, blocked);
    assistant_scorer_ = std::make_unique<Scorer>(assistant_, n_shared_, blocked);
}

std::pair<Scores, Scores> ScoringPair::score(const std::vector<ScoredText>& texts, std::size_t top_k,
                                             std::function<bool()> poll_interrupt) {
    Interrupt interrupt(std::move(poll_interrupt));
    assistant_scorer_->check(texts);  // before the base has read them
    Scorer::Wanted wanted;
    wanted.top_k = top_k;
    wanted.hidden = true;
    Scores base = base_scorer_->score(texts, wanted, interrupt);
    wanted = {};
    wanted.probes = {base.top.data(), base.top.size()};
    Scores assistant = assistant_scorer_->score(texts, wanted, interrupt);
    return {std::move(base), std::move(assistant)};
}

std::pair<Scores, Scores> ScoringPair::likelihoods(const std::vector<ScoredText>& texts, const Head& head,
                                                   std::uint32_t seed, std::size_t n_likeliest,
                                                   std::function<bool()> poll_interrupt) {
    Interrupt interrupt(std::move(poll_interrupt));
    assistant_scorer_->check(texts);  // before the base has read them
    Scorer::Wanted wanted;
    wanted.n_likeliest = n_likeliest;
    wanted.n_probes = n_likeliest;
    if (static_cast<std::size_t>(head.defer_token()) < n_shared_) wanted.excluded = head.defer_token();
    wanted.head = &head;
    wanted.seed = seed;
    Scores base = base_scorer_->score(texts, wanted, interrupt);
    wanted.head = nullptr;
    if (n_likeliest > 0) wanted.probes = {base.likeliest.data(), base.likeliest.size()};
    Scores assistant = assistant_scorer_->score(texts, wanted, interrupt);
    if (n_likeliest > 0) {
        // The base knows its probabilities of the assistant's tokens only where it has them before it.
        wanted.n_likeliest = 0;
        wanted.probes = {assistant.likeliest.data(), assistant.likeliest.size()};
        base.probe_logprob = base_scorer_->score(texts, wanted, interrupt).probe_logprob;
    }
    return {std::move(base), std::move(assistant)};
}

std::vector<Token> ScoringPair::tokenize(const std::string& text, bool add_special,
                                         bool parse_special) const {
    return llama::tokenize(base_->vocab(), text, add_special && base_->vocabulary().add_bos, parse_special);
}

}  // namespace colm::llama
