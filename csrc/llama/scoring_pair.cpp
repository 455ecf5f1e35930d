#include "llama/scoring_pair.h"

#include "llama/vocab.h"

namespace colm::llama {

ScoringPair::ScoringPair(const ModelOptions& base, const ModelOptions& assistant, const Pair* loaded)
    : base_(std::make_shared<LlamaModel>(base, loaded == nullptr ? nullptr : &loaded->base())),
      assistant_(
          std::make_shared<LlamaModel>(assistant, loaded == nullptr ? nullptr : &loaded->assistant())) {
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

std::vector<Token> ScoringPair::tokenize(const std::string& text, bool add_special,
                                         bool parse_special) const {
    return llama::tokenize(base_->vocab(), text, add_special && base_->vocabulary().add_bos, parse_special);
}

}  // namespace colm::llama
