#include "colm/local_expert.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "colm/error.h"

namespace colm {
namespace {

// A copy costs as much as reading a few tokens.
constexpr std::size_t kLeastShared = 16;
// Reading so few tokens keeps nobody waiting.
constexpr std::size_t kFew = 64;
// Tokens between checkpoints, and fewer where a prompt begins or ends: there texts part most often.
constexpr std::size_t kApart = 256;
constexpr std::size_t kLeastApart = 32;

// The token before the first distribution that is wanted; what is before it can be read without an output.
std::size_t first_output(const Question& question) {
    return question.counts.empty() ? question.n_along : question.counts.front() - 1;
}

// Where reading ends.
std::size_t last_token(const Question& question) {
    return question.counts.empty() ? question.n_along : question.counts.back();
}

}  // namespace

LocalExpert::LocalExpert(std::shared_ptr<LanguageModel> model, ExpertId id, std::size_t n_ids,
                         std::size_t checkpoint_bytes)
    : model_(std::move(model)),
      id_(id),
      n_ids_(n_ids),
      most_checkpoint_bytes_(checkpoint_bytes),
      slots_(model_->n_sequences()) {}

void LocalExpert::ask(std::vector<Question> questions) {
    for (Question& question : questions) open_.push_back({std::move(question), next_turn_++});
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
        for (const Open& open : open_) go_back(open.question);
        plan(interrupt, use);
        read_planned(interrupt, use);
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
    const auto is_done = [](const Open& open) { return open.done || open.question.counts.empty(); };
    open_.erase(std::remove_if(open_.begin(), open_.end(), is_done), open_.end());
}

// To the beginning that slot and text have in common. The token before the first distribution that is wanted
// is always read again.
void LocalExpert::go_back(const Question& question) {
    Slot& slot = slots_[question.slot];
    std::size_t n = n_common(slot.held, *question.tokens, first_output(question));
    if (n == slot.held.size() && !slot.uncertain) return;
    if (model_->rewind(question.slot, n) < n) {
        goes_back_ = false;
        const Checkpoint* last = last_within(slot.checkpoints, n);
        n = last == nullptr ? 0 : last->n_tokens;
        if (n == 0 || !model_->go_back(question.slot, n, *last->state)) {
            model_->forget(question.slot);
            n = 0;
        }
    }
    slot.held.resize(n);
    slot.uncertain = false;
    while (!slot.checkpoints.empty() && slot.checkpoints.back().n_tokens > n) slot.checkpoints.pop_back();
    slot.n_checked = slot.checkpoints.empty() ? 0 : slot.checkpoints.back().n_tokens;
}

// How far each question is read in this call. One that needs few tokens before its first output is read
// whole. The others get a batch of tokens together, the one that was asked first before all: so a long text
// is read in pieces, and between them the others go on.
void LocalExpert::plan(Interrupt& interrupt, const Use& use) {
    std::vector<Open*> in_turn;
    std::size_t n_few = 0;
    for (Open& open : open_) {
        const std::size_t n_held = slots_[open.question.slot].held.size();
        in_turn.push_back(&open);
        if (first_output(open.question) <= n_held + kFew) n_few += last_token(open.question) - n_held;
    }
    std::sort(in_turn.begin(), in_turn.end(), [](const Open* a, const Open* b) { return a->turn < b->turn; });
    // With the few it is one batch, unless that leaves little.
    std::size_t left = model_->n_batch() - std::min(n_few, model_->n_batch() / 2);
    for (auto next = in_turn.begin(); next != in_turn.end(); ++next) {
        Open& open = **next;
        const Question& question = open.question;
        const std::size_t first = first_output(question);
        if (goes_back()) copy_beginning(question);
        const std::size_t n_held = slots_[question.slot].held.size();
        // How much further another one has the same tokens, where that is worth a copy.
        const auto n_same = [&](const Open* other) {
            const std::size_t most = std::min(first, first_output(other->question));
            const std::size_t n = n_common(*other->question.tokens, *question.tokens, most);
            return goes_back() && n >= n_held + kLeastShared ? n : 0;
        };
        if (std::any_of(in_turn.begin(), next, [&](const Open* other) {
                return n_same(other) > slots_[other->question.slot].held.size();
            })) {
            open.until = n_held;  // that one has not read all of it
            continue;
        }
        const bool few = first <= n_held + kFew;
        open.until = few || first <= n_held + left ? last_token(question) : n_held + left;
        if (!few) left -= std::min(left, open.until - n_held);
        if (std::any_of(next + 1, in_turn.end(), [&](const Open* later) { return n_same(later) > 0; })) {
            const auto i = static_cast<std::size_t>(&open - open_.data());
            read(i, i + 1, false, interrupt, use);
        }
    }
}

// A text gets what it has in common with another slot, where that is more than its own slot has.
void LocalExpert::copy_beginning(const Question& question) {
    std::vector<Token>& own = slots_[question.slot].held;
    std::size_t from = question.slot;
    std::size_t n_shared = own.size() + kLeastShared - 1;
    for (std::size_t s = 0; s < slots_.size(); ++s) {
        if (slots_[s].uncertain) continue;
        const std::size_t n = n_common(slots_[s].held, *question.tokens, first_output(question));
        if (n <= n_shared) continue;
        n_shared = n;
        from = s;
    }
    if (from == question.slot) return;
    if (!own.empty()) model_->forget(question.slot);
    const std::size_t n = model_->copy(from, question.slot, n_shared);
    const auto begin = slots_[from].held.begin();
    own.assign(begin, begin + static_cast<std::ptrdiff_t>(n));
}

void LocalExpert::read_planned(Interrupt& interrupt, const Use& use) {
    bool hidden = false;
    bool leads = false;
    bool begun = true;   // all of them
    bool parts = false;  // a long prompt ends, which is where texts part
    std::size_t n_tokens = 0;
    for (Open& open : open_) {
        const Question& question = open.question;
        const std::size_t n_held = slots_[question.slot].held.size();
        if (!std::exchange(open.begun, true)) {
            open.is_long = first_output(question) >= n_held + kLeastApart;
            if (open.is_long) keep_checkpoint(question.slot, kLeastApart);
        }
        hidden = hidden || (question.hidden && open.until == last_token(question));
        leads = leads || n_held < std::min(open.until, first_output(question));
        parts = parts || (open.is_long && open.until >= first_output(question));
        begun = begun && n_held > 0;
        n_tokens += open.until - n_held;
    }
    // With hidden states every token of a batch is an output, and pays for the vocabulary: what comes before
    // is read without them. But a few tokens behind texts, such as a run of another expert's, cost less in
    // one batch than in two.
    const bool few = begun && n_tokens <= std::min(model_->n_outputs(), model_->n_batch());
    if ((hidden && leads && !few) || (parts && keeps_checkpoints())) {
        read(0, open_.size(), false, interrupt, use);
        for (const Open& open : open_)
            if (open.is_long && slots_[open.question.slot].held.size() == first_output(open.question))
                keep_checkpoint(open.question.slot, kLeastApart);
    }
    read(0, open_.size(), true, interrupt, use);
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
        calls_.clear();
        n_kept_ = 0;
        for (const auto& [open, place] : std::exchange(wanted_, {}))
            expert_.answer(*open, place, hidden_, use_);
        for (const BatchToken& slot : std::exchange(slots_, {}))
            expert_.keep_checkpoint(slot.sequence, kApart);
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
    const auto whole = [](const Open& open) { return open.until == last_token(open.question); };
    bool hidden = false;
    for (const Open& open : open_) hidden = hidden || (outputs && open.question.hidden && whole(open));
    Batch batch(*this, hidden, interrupt, use);
    for (std::size_t i = begin; i < end; ++i) {
        Open& open = open_[i];
        const Question& question = open.question;
        const std::size_t n = outputs ? open.until : std::min(open.until, first_output(question));
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
    if (hidden) prediction.n_hidden = model_->n_embd();
    answer.prediction = &prediction;
    use(answer);
}

// -- what it knows of texts

bool LocalExpert::keeps_checkpoints() const { return !goes_back() && most_checkpoint_bytes_ > 0; }

std::size_t LocalExpert::checkpoint_bytes() const {
    std::size_t n = 0;
    for (const Slot& slot : slots_) n += bytes_of(slot.checkpoints);
    return n;
}

// Makes a checkpoint of a slot, if the last one lies `apart` tokens back.
void LocalExpert::keep_checkpoint(std::size_t number, std::size_t apart) {
    Slot& slot = slots_[number];
    if (!keeps_checkpoints() || slot.held.size() < slot.n_checked + apart) return;
    slot.n_checked = slot.held.size();
    auto state = std::make_shared<const Bytes>(model_->checkpoint(number));
    if (state->empty() || state->size() > most_checkpoint_bytes_) return;
    slot.checkpoints.push_back({slot.held.size(), std::move(state)});
    drop_checkpoints();
}

// Until they are no more than they may be: those first that are missed least, because others are near.
void LocalExpert::drop_checkpoints() {
    while (checkpoint_bytes() > most_checkpoint_bytes_) {
        Slot* from = nullptr;
        std::size_t place = 0;
        std::size_t least = std::numeric_limits<std::size_t>::max();
        for (Slot& slot : slots_) {
            const Checkpoints& all = slot.checkpoints;
            for (std::size_t i = 0; i < all.size(); ++i) {
                const std::size_t before = i == 0 ? 0 : all[i - 1].n_tokens;
                // The last one is nearest to where texts go on.
                const std::size_t after = i + 1 < all.size() ? all[i + 1].n_tokens : 2 * slot.held.size();
                if (after - before >= least) continue;
                least = after - before;
                from = &slot;
                place = i;
            }
        }
        from->checkpoints.erase(from->checkpoints.begin() + static_cast<std::ptrdiff_t>(place));
    }
}

std::size_t LocalExpert::n_known(std::size_t slot, const std::vector<Token>& tokens) const {
    return colm::n_known(slots_[slot].held, slots_[slot].checkpoints, goes_back(), tokens);
}

void LocalExpert::forget() {
    model_->clear();
    std::fill(slots_.begin(), slots_.end(), Slot{});
}

std::shared_ptr<const SavedSlot> LocalExpert::save(std::size_t number) {
    const Slot& slot = slots_[number];
    if (slot.held.empty() || slot.uncertain) return nullptr;
    auto saved = std::make_shared<SavedSlot>();
    saved->state = model_->save(number);
    if (saved->state.empty()) return nullptr;
    saved->held = slot.held;
    saved->checkpoints = slot.checkpoints;
    saved->goes_back = goes_back();
    return saved;
}

bool LocalExpert::restore(std::size_t number, const SavedSlot& saved) {
    model_->forget(number);
    slots_[number] = {};
    if (saved.held.size() > n_ctx() || !model_->restore(number, saved.held.size(), saved.state)) {
        model_->forget(number);
        return false;
    }
    slots_[number].held = saved.held;
    slots_[number].checkpoints = saved.checkpoints;
    drop_checkpoints();
    return true;
}

}  // namespace colm
