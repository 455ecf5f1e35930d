#include "colm/shared_draft.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

namespace colm {
namespace {

// Tokens of a draft. Of each that the base read, its logits are kept.
constexpr std::size_t kMostWritten = 24;

// A sampler that remembers nothing, as a copy of itself.
class Borrowed final : public Sampler {
  public:
    explicit Borrowed(Sampler& sampler) : sampler_(sampler) {}
    Token choose(View<const float> logits, const Distribution& distribution, std::size_t position) override {
        return sampler_.choose(logits, distribution, position);
    }
    std::string why_none() const override { return sampler_.why_none(); }
    void accept(Token) override {}
    std::unique_ptr<Sampler> snapshot() const override { return nullptr; }

  private:
    Sampler& sampler_;
};

std::unique_ptr<Sampler> copy_of(Sampler& sampler) {
    std::unique_ptr<Sampler> copy = sampler.snapshot();
    if (!copy) copy = std::make_unique<Borrowed>(sampler);
    return copy;
}

Deciders copy_of(const Deciders& of) {
    Deciders copy{of.head, of.policy, of.mixer, copy_of(*of.sampler), of.seed, 0};
    copy.left_out = of.left_out;
    std::map<const Sampler*, std::shared_ptr<Sampler>> known;  // some experts have the same
    for (const auto& sampler : of.own_samplers) {
        std::shared_ptr<Sampler>& own = known[sampler.get()];
        if (sampler && !own) own = copy_of(*sampler);
        copy.own_samplers.push_back(own);
    }
    return copy;
}

// Where the text stands; what was counted does not matter.
Sequence begin_of(const Sequence& sequence) {
    Sequence begin;
    begin.tokens = sequence.tokens;
    begin.n_prompt = sequence.n_prompt;
    begin.stats.n_deferred = sequence.stats.n_deferred;
    return begin;
}

}  // namespace

void follow(const std::string& bytes, const SharedText& shared, std::size_t n_experts, Deciders& deciders,
            ExpertId writer) {
    std::vector<const Sampler*> told = {&deciders.sampler_of(writer)};
    for (ExpertId expert = 0; expert < n_experts; ++expert) {
        Sampler& sampler = deciders.sampler_of(expert);
        if (std::find(told.begin(), told.end(), &sampler) != told.end()) continue;
        sampler.follow(bytes, shared.written(expert));
        told.push_back(&sampler);
    }
}

SharedDraft::SharedDraft(const SharedText& shared, const Sequence& sequence, const Deciders& deciders,
                         ExpertId expert, const Pending& pending, const Limits& limits,
                         const Draft::EndsText& ends_text, const Choices& choices, const Estimates& estimates)
    : shared_(shared),
      sequence_(begin_of(sequence)),
      deciders_(copy_of(deciders)),
      expert_(expert),
      limits_(limits),
      ends_text_(ends_text),
      choices_(choices),
      estimates_(estimates) {
    add_place();
    if (pending.drafted) {
        ended_ = pending.drafted->token == kNoToken;
        if (ended_) return;
        expect(pending.drafted->token, pending.log_odds);
        write_expected(*pending.drafted);
    } else {
        turn_ = pending.proposes ? Turn::proposal : Turn::expert;
        decision_ = std::make_unique<Decision>(sequence_, deciders_, choices_);
        guess();
    }
    go_on();
}

bool SharedDraft::is_place(std::size_t i, const std::vector<Token>& tokens) const {
    return i < counts_.size() && tokens.size() == counts_[i] &&
           std::equal(tokens.begin(), tokens.end(), tokens_.begin());
}

std::size_t SharedDraft::n_behind(std::size_t i) const {
    return places_[i].drafted ? n_written_ - places_[i].n_before - 1 : 0;
}

// Up to where the base or the expert has to be asked.
void SharedDraft::go_on() {
    while (!ended_ && !wants_base_) {
        ended_ = sequence_.tokens.size() >= limits_.n_tokens || shared_.longest() >= limits_.n_ctx ||
                 n_written_ >= kMostWritten;
        if (ended_) return;
        decision_ = std::make_unique<Decision>(sequence_, deciders_, choices_);
        const ExpertId writer = shared_.writer();
        const ExpertId wanted = decision_->needs_base() ? kBase : decision_->expert();
        if (!shared_.same_vocabulary(kBase, writer) && wanted != writer) {
            turn_ = Turn::proposal;
            ended_ = writer != expert_ || !add_place();
        } else if (wanted == kBase || (shared_.begun() && !shared_.same_vocabulary(writer, wanted))) {
            turn_ = Turn::head;
            decision_->want_base();
            wants_base_ = true;
            return;
        } else {
            turn_ = Turn::expert;
            ended_ = wanted != expert_ || !add_place();
        }
        if (!ended_) guess();
    }
}

// The expert is asked here. Not where its tokens before are no longer those that it was to be asked about.
bool SharedDraft::add_place() {
    const std::vector<Token>& now = shared_.tokens(expert_);
    if (counts_.size() == limits_.n_places) return false;
    if (!counts_.empty() &&
        (now.size() <= counts_.back() || !std::equal(tokens_.begin(), tokens_.end(), now.begin())))
        return false;
    tokens_ = now;
    counts_.push_back(now.size());
    places_.emplace_back();
    places_.back().n_before = n_written_;
    return true;
}

// The expert writes what the base would.
void SharedDraft::expect(Token token, double log_odds) {
    const std::vector<Token> tokens = shared_.as_tokens_of(expert_, token, kBase);
    expected_.assign(tokens.begin(), tokens.end());
    first_ = true;
    log_odds_ = log_odds;
}

// The expert's turn, or what it says before the base reads on.
void SharedDraft::guess() {
    if (expected_.empty()) {
        wants_base_ = true;
        return;
    }
    Step step;
    step.expert = expert_;
    if (turn_ == Turn::expert) return write_expected(decision_->confirm(step));
    if (shared_.may_take_over(kBase, expected_.front())) {
        places_.back().expected = expected_.front();
        wants_base_ = true;
        return;
    }
    step = Decision(sequence_, deciders_, choices_, expert_).confirm(step);
    step.waited = true;
    write_expected(step);
}

void SharedDraft::hear_base(const Prediction& prediction) {
    wants_base_ = false;
    decision_->hear_base(keep(prediction));
    const Step step = decision_->draft();
    ended_ = step.token == kNoToken;
    if (ended_) return;
    if (turn_ != Turn::head && expected_.empty()) {
        expect(step.token, decision_->base_log_odds());
        ended_ = expected_.empty();
        if (ended_) return;
        wants_base_ = false;
        guess();
        if (!wants_base_) return go_on();
        wants_base_ = false;  // it said already what the head asks for
    }
    ExpertId who = decision_->expert();
    const ExpertId writer = shared_.writer();
    bool waits = false;
    if (turn_ == Turn::head && who != kBase && who != writer && !shared_.may_take_over(who, step.token)) {
        decision_->stay_with(writer);
        who = writer;
        waits = true;
    }
    if (who == kBase) {
        Step of_base = step;
        of_base.expert = kBase;
        of_base.waited = waits;
        expected_.clear();
        write(of_base);
    } else if (who != expert_) {
        ended_ = true;
    } else if (turn_ == Turn::proposal) {
        write_expected(step);
    } else {
        ended_ = !add_place();
        if (ended_) return;
        expect(step.token, decision_->base_log_odds());
        write_expected(step);
    }
    go_on();
}

const Prediction& SharedDraft::keep(const Prediction& prediction) {
    said_.emplace_back();
    Said& said = said_.back();
    said.tokens = base_tokens();
    said.prediction = prediction;
    if (prediction.logits.data != nullptr) {
        said.logits.assign(prediction.logits.begin(), prediction.logits.end());
        said.prediction.logits = {said.logits.data(), said.logits.size()};
    } else {
        said.likeliest.assign(prediction.likeliest.begin(), prediction.likeliest.end());
        said.prediction.likeliest = {said.likeliest.data(), said.likeliest.size()};
    }
    if (prediction.hidden != nullptr) {
        said.hidden.assign(prediction.hidden, prediction.hidden + prediction.n_hidden);
        said.prediction.hidden = said.hidden.data();
    }
    return said.prediction;
}

const Prediction* SharedDraft::said(const std::vector<Token>& base_tokens) {
    for (const Said& said : said_) {
        if (said.tokens != base_tokens) continue;
        n_base_used_ = base_tokens.size();
        return &said.prediction;
    }
    return nullptr;
}

void SharedDraft::write_expected(Step step) {
    ended_ = expected_.empty();
    if (ended_) return;
    Place& place = places_.back();
    place.expected = expected_.front();
    place.estimated = first_;
    place.log_odds = log_odds_;
    ended_ = n_drafted_ == limits_.n_drafted;
    if (ended_) return;
    if (first_) confidence_ *= estimates_.acceptance_rate(log_odds_);
    first_ = false;
    place.drafted = true;
    ++n_drafted_;
    step.expert = expert_;
    step.token = expected_.front();
    expected_.pop_front();
    write(step);
}

void SharedDraft::write(const Step& step) {
    append(step, sequence_, deciders_);
    const std::string bytes = shared_.add(step.token, step.expert);
    follow(bytes, shared_, shared_.n_readers(), deciders_, step.expert);
    ++n_written_;
    ended_ = ends_text_(step);
}

}  // namespace colm
