#include "colm/local_expert.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "colm/error.h"

namespace colm {
namespace {

// A copy costs as much as reading a few tokens.
constexpr std::size_t kLeastShared = 16;

// How many tokens at the beginning are the same, `most` at most.
std::size_t n_common(const std::vector<Token>& a, const std::vector<Token>& b, std::size_t most) {
    const auto end = a.begin() + static_cast<std::ptrdiff_t>(std::min({a.size(), b.size(), most}));
    return static_cast<std::size_t>(std::mismatch(a.begin(), end, b.begin()).first - a.begin());
}

// The token before the first distribution that is wanted; what is before it can be read without an output.
std::size_t first_output(const Question& question) {
    return question.counts.empty() ? question.n_along : question.counts.front() - 1;
}

// Where reading ends.
std::size_t last_token(const Question& question) {
    return question.counts.empty() ? question.n_along : question.counts.back();
}

struct Saved final : SavedSlot {
    std::vector<Token> held;
    std::vector<std::uint8_t> state;
    bool goes_back = true;

    std::size_t bytes() const override { return state.size() + held.size() * sizeof(Token); }
    std::size_t n_known(const std::vector<Token>& tokens) const override {
        const std::size_t n = n_common(held, tokens, tokens.size() - 1);
        return goes_back || n == held.size() ? n : 0;
    }
};

}  // namespace

LocalExpert::LocalExpert(std::shared_ptr<LanguageModel> model, ExpertId id, std::size_t n_ids)
    : model_(std::move(model)), id_(id), n_ids_(n_ids), slots_(model_->n_sequences()) {}

void LocalExpert::ask(std::vector<Question> questions) {
    for (Question& question : questions) open_.push_back({std::move(question)});
    // llama.cpp computes in one pass only what stands in rising sequences without a gap.
    std::sort(open_.begin(), open_.end(),
              [](const Open& a, const Open& b) { return a.question.slot < b.question.slot; });
}

void LocalExpert::drop(std::size_t slot) {
    const auto about = [slot](const Open& open) { return open.question.slot == slot; };
    open_.erase(std::remove_if(open_.begin(), open_.end(), about), open_.end());
}

void LocalExpert::collect(bool, Interrupt& interrupt, const Use& use) {
    try {
        bool hidden = false;
        bool leads = false;
        for (const Open& open : open_) {
            go_back(open.question);
            hidden = hidden || open.question.hidden;
        }
        share_beginnings(interrupt, use);
        std::size_t n_tokens = 0;
        bool begun = true;  // all of them
        for (const Open& open : open_) {
            const std::size_t n_held = slots_[open.question.slot].held.size();
            leads = leads || n_held < first_output(open.question);
            begun = begun && n_held > 0;
            n_tokens += last_token(open.question) - n_held;
        }
        // With hidden states every token of a batch is an output, and pays for the vocabulary: what comes
        // before is read without them. But a few tokens behind texts, such as a run of another expert's, cost
        // less in one batch than in two.
        const bool few = begun && n_tokens <= std::min(model_->n_outputs(), model_->n_batch());
        if (hidden && leads && !few) read(0, open_.size(), false, interrupt, use);
        read(0, open_.size(), true, interrupt, use);
    } catch (const Cancelled&) {
        open_.clear();
        throw;
    } catch (const std::exception&) {
        std::vector<Open> open = std::exchange(open_, {});
        forget();
        for (const Open& o : open)
            if (!o.question.counts.empty() && !o.done)
                use({o.question.slot, o.n_answered, nullptr, std::current_exception()});
        return;
    } catch (...) {
        open_.clear();
        throw;
    }
    open_.clear();
}

// To the beginning that slot and text have in common. The token before the first distribution that is wanted
// is always read again.
void LocalExpert::go_back(const Question& question) {
    Slot& slot = slots_[question.slot];
    const std::size_t n = n_common(slot.held, *question.tokens, first_output(question));
    if (n == slot.held.size() && !slot.uncertain) return;
    const std::size_t n_kept = model_->rewind(question.slot, n);
    if (n_kept < n) goes_back_ = false;
    slot.held.resize(n_kept);
    slot.uncertain = false;
}

// Texts get what they have in common with another slot, where that is more than their own slot has. Where
// only unread texts share it, one of them is read first.
void LocalExpert::share_beginnings(Interrupt& interrupt, const Use& use) {
    if (!goes_back()) return;  // then a part of a text cannot be copied either
    for (std::size_t i = 0; i < open_.size(); ++i) {
        const Question& question = open_[i].question;
        const std::size_t most = first_output(question);
        std::vector<Token>& own = slots_[question.slot].held;
        if (own.size() + kLeastShared > most) continue;
        std::size_t from = question.slot;
        std::size_t n_shared = own.size();
        for (std::size_t s = 0; s < slots_.size(); ++s) {
            if (slots_[s].uncertain) continue;
            const std::size_t n = n_common(slots_[s].held, *question.tokens, most);
            if (n > n_shared) {
                n_shared = n;
                from = s;
            }
        }
        std::size_t n_later = 0;
        for (std::size_t k = i + 1; k < open_.size(); ++k) {
            const Question& later = open_[k].question;
            if (slots_[later.slot].held.size() + kLeastShared <= first_output(later))
                n_later = std::max(n_later, n_common(*later.tokens, *question.tokens, most));
        }
        if (n_shared >= own.size() + kLeastShared) {
            if (!own.empty()) model_->forget(question.slot);
            const std::size_t n = model_->copy(from, question.slot, n_shared);
            const auto begin = slots_[from].held.begin();
            own.assign(begin, begin + static_cast<std::ptrdiff_t>(n));
        }
        if (n_later >= own.size() + kLeastShared) read(i, i + 1, false, interrupt, use);
    }
}

// Collects tokens of several texts, decodes them, and answers.
class LocalExpert::Batch {
  public:
    Batch(LocalExpert& expert, bool hidden, Interrupt& interrupt, const Use& use)
        : expert_(expert), hidden_(hidden), interrupt_(interrupt), use_(use) {}

    // Of a text's token: `output` where it is the last before a distribution that is wanted.
    void add(Open& open, Token token, std::size_t position, bool output) {
        const bool kept = output || hidden_;
        if (slots_.size() == expert_.model_->n_batch() || (kept && n_kept_ == expert_.model_->n_outputs()))
            flush();
        if (kept) ++n_kept_;
        const Question& question = open.question;
        if (calls_.empty() || calls_.back().first != question.calls) {
            calls_.emplace_back(question.calls, DecodeCall{expert_.id_, static_cast<std::int32_t>(position),
                                                           0, false, false});
        }
        DecodeCall& call = calls_.back().second;
        ++call.n_tokens;
        call.outputs = call.outputs || output;
        call.hidden = call.outputs && hidden_;
        if (output) wanted_.emplace_back(&open, slots_.size());
        slots_.push_back({token, position, question.slot, kept});
    }

    void flush() {
        if (slots_.empty()) return;
        interrupt_.check();
        for (const auto& [calls, call] : calls_)
            if (calls != nullptr) calls->push_back(call);
        for (const BatchToken& slot : slots_) expert_.slots_[slot.sequence].uncertain = true;
        expert_.model_->eval_batch({slots_.data(), slots_.size()}, hidden_, interrupt_);
        ++expert_.n_decodes_;
        for (const BatchToken& slot : slots_) {
            Slot& of = expert_.slots_[slot.sequence];
            of.held.push_back(slot.token);
            of.uncertain = false;
        }
        slots_.clear();
        calls_.clear();
        n_kept_ = 0;
        for (const auto& [open, place] : std::exchange(wanted_, {}))
            expert_.answer(*open, place, hidden_, use_);
    }

  private:
    LocalExpert& expert_;
    bool hidden_;
    Interrupt& interrupt_;
    const Use& use_;
    std::vector<BatchToken> slots_;
    std::size_t n_kept_ = 0;                             // outputs, of all tokens with hidden states
    std::vector<std::pair<Open*, std::size_t>> wanted_;  // and its place in the batch
    std::vector<std::pair<std::vector<DecodeCall>*, DecodeCall>> calls_;
};

void LocalExpert::read(std::size_t begin, std::size_t end, bool outputs, Interrupt& interrupt,
                       const Use& use) {
    bool hidden = false;
    for (const Open& open : open_) hidden = hidden || (outputs && open.question.hidden);
    Batch batch(*this, hidden, interrupt, use);
    for (std::size_t i = begin; i < end; ++i) {
        Open& open = open_[i];
        const Question& question = open.question;
        const std::size_t last = last_token(question);
        const std::size_t n = outputs ? last : first_output(question);
        // A copy: an answer may take the text back before all of it is read.
        const std::vector<Token> tokens = *question.tokens;
        std::size_t next = 0;
        for (std::size_t at = slots_[question.slot].held.size(); at < n; ++at) {
            const bool output = next < question.counts.size() && question.counts[next] == at + 1;
            if (output) ++next;
            batch.add(open, tokens[at], at, output);
        }
    }
    batch.flush();
}

void LocalExpert::answer(Open& open, std::size_t place, bool hidden, const Use& use) {
    const Question& question = open.question;
    Answer answer{question.slot, open.n_answered++, nullptr, nullptr};
    open.done = open.n_answered == question.counts.size();
    const Output output = model_->output(place);
    Prediction prediction;
    if (question.probe != kNoToken)
        prediction.probe_logit = output.logits[static_cast<std::size_t>(question.probe)];
    // Ids of a tail are beyond the view; others are put out of reach where they lie.
    for (const Token token : question.excluded)
        output.logits[static_cast<std::size_t>(token)] = -std::numeric_limits<float>::infinity();
    prediction.logits = {output.logits.data, n_ids_};
    if (hidden) prediction.hidden = output.hidden;
    answer.prediction = &prediction;
    use(answer);
}

std::size_t LocalExpert::n_known(std::size_t slot, const std::vector<Token>& tokens) const {
    const std::vector<Token>& held = slots_[slot].held;
    const std::size_t n = n_common(held, tokens, tokens.size() - 1);
    return goes_back() || n == held.size() ? n : 0;
}

void LocalExpert::forget() {
    model_->clear();
    std::fill(slots_.begin(), slots_.end(), Slot{});
}

std::unique_ptr<SavedSlot> LocalExpert::save(std::size_t slot) {
    if (slots_[slot].held.empty() || slots_[slot].uncertain) return nullptr;
    auto saved = std::make_unique<Saved>();
    saved->state = model_->save(slot);
    if (saved->state.empty()) return nullptr;
    saved->held = slots_[slot].held;
    saved->goes_back = goes_back();
    return saved;
}

bool LocalExpert::restore(std::size_t slot, const SavedSlot& saved) {
    const auto* own = dynamic_cast<const Saved*>(&saved);
    if (own == nullptr) return false;
    model_->forget(slot);
    slots_[slot] = {};
    if (!model_->restore(slot, own->state)) {
        model_->forget(slot);
        return false;
    }
    slots_[slot].held = own->held;
    return true;
}

}  // namespace colm
