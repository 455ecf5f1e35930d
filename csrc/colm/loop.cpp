#include "colm/loop.h"

#include <algorithm>
#include <utility>

#include "colm/error.h"

namespace colm {
namespace {

// The longest batch of an expert's that says something about those of a few tokens.
constexpr std::size_t kMeasuredBatch = 32;

}  // namespace

double Loop::clock_seconds() {
    return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

Loop::Loop(Experts experts, Choices choices, std::size_t cache_bytes, std::function<double()> now)
    : experts_(std::move(experts)),
      choices_(std::move(choices)),
      estimates_(experts_.size()),
      slots_(experts_.front()->n_slots()),
      saved_(slots_.size(), cache_bytes),
      now_(std::move(now)),
      moves_(experts_, choices_, estimates_, now_) {
    for (ExpertId expert = 1; expert < experts_.size(); ++expert)
        if (experts_[expert]->answers_later()) estimates_.answers_later(expert);
}

Loop::~Loop() = default;

std::size_t Loop::n_ctx() const {
    std::size_t n = experts_.front()->n_ctx();
    for (const auto& expert : experts_) n = std::min(n, expert->n_ctx());
    return n;
}

std::shared_ptr<Text> Loop::add(Writing writing, int lookahead) {
    return inbox_.add(std::move(writing), lookahead, choices_);
}

// -- a step

std::vector<Event> Loop::step(Interrupt& interrupt) {
    take_in();
    fill_slots();
    const Moving moving = to_move();
    const Computed computed = to_compute();
    inbox_.begin_step(texts_of(computed), interrupt);
    const double begin = now_();
    std::exception_ptr cancelled;
    try {
        if (!moving.empty()) {
            interrupt.check();
            ++n_steps_;
        }
        read_base(moving, interrupt);
        ask_experts(moving, interrupt);
    } catch (...) {
        cancelled = std::current_exception();
        for (const auto& text : running_) take_back(*text);
    }
    note_seconds(computed, now_() - begin);
    for (const auto& text : running_)
        if (text->slot) hand_over(*text);
    if (moves_.take_damage())
        // Cells of a text whose values are not finite would reach those that share the cache.
        for (const auto& expert : experts_) expert->forget();
    drop_ended();
    if (inbox_.end_step(interrupt)) cancelled = nullptr;
    idle_ = computed.empty();
    if (cancelled) std::rethrow_exception(cancelled);
    return std::exchange(events_, {});
}

// The texts that this step moves.
Loop::Moving Loop::to_move() const {
    Moving moving;
    for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
        Running* text = running_at(slot);
        if (text == nullptr || !slots_.wanted(*text->text)) continue;
        if (!text->waiting() || moves_.drafts_on(*text)) moving.push_back(text);
    }
    return moving;
}

// Those, and texts about which an expert has yet to answer.
Loop::Computed Loop::to_compute() const {
    Computed computed;
    for (const auto& text : running_)
        if (text->slot && (text->waiting() || slots_.wanted(*text->text)))
            computed.emplace_back(text.get(), text->stats().prefill_s);
    return computed;
}

std::vector<Text*> Loop::texts_of(const Computed& computed) {
    std::vector<Text*> texts;
    for (const auto& [text, prefill_s] : computed) texts.push_back(text->text.get());
    return texts;
}

// What a step took belongs to reading the prompt until the base has answered, and what an expert's first call
// took was noted where it was heard.
void Loop::note_seconds(const Computed& computed, double seconds) {
    for (const auto& [text, prefill_s] : computed) {
        Stats& stats = text->stats();
        if (text->waits_for(kBase) && stats.of(kBase).calls == 0)
            stats.prefill_s += seconds;
        else
            stats.decode_s += seconds - (stats.prefill_s - prefill_s);
    }
}

void Loop::drop_ended() {
    const auto ended = [](const auto& text) { return text->text->finish_reason() != FinishReason::none; };
    for (const auto& text : running_)
        if (ended(text)) slots_.leave(*text->text);
    running_.erase(std::remove_if(running_.begin(), running_.end(), ended), running_.end());
}

// New texts, and those that were cancelled.
void Loop::take_in() {
    inbox_.take(running_);
    for (const auto& text : running_) {
        if (!text->writing.finished()) text->writing.end_if_full();
        if (text->text->cancelled_.load())
            end(*text, FinishReason::cancelled);
        else if (text->writing.finished())
            end(*text, text->writing.finish_reason());
    }
}

void Loop::fill_slots() {
    while (const std::shared_ptr<Text> waiting = slots_.first_waiting()) {
        const auto it =
            std::find_if(running_.begin(), running_.end(), [&](const auto& r) { return r->text == waiting; });
        if (it == running_.end()) {
            take_in();  // it was added meanwhile
            continue;
        }
        const std::vector<std::size_t> free = slots_.free_for(*waiting);
        if (free.empty()) return;
        Running& text = **it;
        SavedTexts::Tokens tokens;
        for (ExpertId expert = 0; expert < experts_.size(); ++expert)
            tokens.push_back(&text.tokens_of(expert));
        const std::size_t slot = saved_.choose(experts_, free, tokens);
        if (Running* before = running_at(slot)) {
            take_back(*before);
            before->slot.reset();
        }
        saved_.exchange(experts_, slot, tokens);
        slots_.give(slot, waiting);
        text.slot = slot;
        text.text->begun_.store(true);
    }
}

// What experts were asked about it is asked anew.
void Loop::take_back(Running& text) {
    if (text.waits_for(kBase) && !text.shared_draft) text.next = {};
    text.shared_draft.reset();
    for (const auto& [expert, asked] : text.asked) experts_[expert]->drop(*text.slot);
    text.asked.clear();
}

Running* Loop::running_at(std::size_t slot) const {
    const auto it =
        std::find_if(running_.begin(), running_.end(), [&](const auto& r) { return r->slot == slot; });
    return it == running_.end() ? nullptr : it->get();
}

// -- the base

void Loop::read_base(const Moving& moving, Interrupt& interrupt) {
    std::vector<Question> questions;
    for (Running* text : moving)
        if (std::optional<Question> question = moves_.ask_base(*text))
            questions.push_back(std::move(*question));
    const double begin = now_();
    std::size_t n_answered = 0;
    const Heard heard = collect(kBase, std::move(questions), moving, interrupt, [&](const Answer& answer) {
        ++n_answered;
        moves_.hear_base(*running_at(answer.slot), answer, begin);
    });
    if (heard.seconds && heard.n_read == n_answered) estimates_.reading(kBase, n_answered, *heard.seconds);
}

// Asks an expert, and hears what it answers now; notes what it read.
Loop::Heard Loop::collect(ExpertId expert, std::vector<Question> questions, const Moving& moving,
                          Interrupt& interrupt, const Expert::Use& hear) {
    Heard heard;
    const auto waits = [expert](const auto& text) { return text->waits_for(expert); };
    if (questions.empty() && std::none_of(running_.begin(), running_.end(), waits)) return heard;
    std::vector<std::size_t> n_calls;
    for (const auto& text : running_) n_calls.push_back(text->sequence().calls.size());
    const bool others_go_on = std::any_of(moving.begin(), moving.end(), [this](const Running* text) {
        return !text->waiting() || moves_.drafts_on(*text);
    });
    const double begin = now_();
    if (!questions.empty()) experts_[expert]->ask(std::move(questions));
    experts_[expert]->collect(!others_go_on, interrupt, [&](const Answer& answer) {
        if (!heard.seconds) heard.seconds = now_() - begin;
        hear(answer);
    });
    const double spent = now_() - begin;
    // A part of a long text says nothing about batches of a few tokens.
    if (std::any_of(running_.begin(), running_.end(), waits)) heard.seconds.reset();
    for (std::size_t i = 0; i < n_calls.size(); ++i) {
        const std::vector<DecodeCall>& calls = running_[i]->sequence().calls;
        const std::size_t n = tokens_read(calls, n_calls[i]);
        if (calls.size() > n_calls[i]) {
            Work& work = running_[i]->stats().of(expert);
            work.tokens_read += n;
            work.seconds += spent;
        }
        heard.n_read += n;
        heard.n_most = std::max(heard.n_most, calls.size() - n_calls[i]);
    }
    return heard;
}

// -- the other experts

// Whether the experts are asked in this step: where a text is blocked, or where writing on does not pay.
bool Loop::must_ask(const Moving& moving) const {
    std::vector<double> p;
    std::size_t n_risked = 0;
    ExpertId expert = kBase;
    for (const Running* text : moving) {
        if (moves_.blocked(*text)) return true;
        if (text->error || text->waiting() || text->draft.lookahead() != kAutoLookahead) continue;
        if (!text->shared_draft && text->draft.n_open() == 0) continue;
        const ExpertId first = text->shared_draft ? text->shared_draft->expert() : text->draft.first_expert();
        if (experts_[first]->answers_later()) continue;
        p.push_back(text->shared_draft ? text->shared_draft->confidence() : text->draft.confidence());
        n_risked += text->shared_draft ? text->shared_draft->n_risked() : text->draft.n_risked();
        expert = first;
    }
    return !p.empty() && !estimates_.worth_going_on(p, expert, moving.size(), n_risked);
}

// What the expert is asked about these texts. Of those that ask it nothing it reads what is new: every token
// is read once all the same, and the runs that are read are equally long for all texts, which llama.cpp
// computes in one pass.
std::vector<Question> Loop::questions_to(ExpertId expert, const Moving& moving) {
    std::vector<Question> questions;
    for (Running* text : moving)
        if (std::optional<Question> question = moves_.ask(*text, expert))
            questions.push_back(std::move(*question));
    if (questions.empty()) return questions;
    for (Running* text : moving) {
        // Of a text that never asked it, its slot holds what another one left there.
        const bool asked = text->stats().of(expert).calls > 0;
        if (text->error || text->waiting() || text->open() || !asked) continue;
        if (text->writing.shared() != nullptr) continue;  // its last tokens may change
        Question along = text->question(expert, {});
        along.n_along = along.tokens->size() - 1;  // without the token of this step
        const std::size_t n_held = experts_[expert]->n_held(*text->slot);
        if (n_held > 0 && n_held < along.n_along) questions.push_back(std::move(along));
    }
    return questions;
}

void Loop::ask_experts(const Moving& moving, Interrupt& interrupt) {
    const bool must = must_ask(moving);
    // One after the other: what one has rejected, the next is not asked about.
    for (ExpertId expert = 1; expert < experts_.size(); ++expert) {
        std::vector<Question> questions;
        // Of one that answers later nothing is put off: the base drafts on meanwhile.
        const bool later = experts_[expert]->answers_later();
        if (must || later) questions = questions_to(expert, moving);
        const double begin = now_();
        std::size_t n_answers = 0;
        Heard heard = collect(expert, std::move(questions), moving, interrupt, [&](const Answer& answer) {
            ++n_answers;
            moves_.hear(*running_at(answer.slot), expert, answer, begin, inbox_.n_in_step());
        });
        if (later) continue;                              // what a call takes is noted where it is heard
        if (heard.n_read == 0) heard.n_read = n_answers;  // it does not say
        if (heard.seconds && heard.n_most <= 1 && heard.n_read <= kMeasuredBatch)
            estimates_.reading(expert, heard.n_read, *heard.seconds);
    }
}

// -- what becomes of a text

void Loop::hand_over(Running& text) {
    while (!text.error && !text.writing.finished() && text.draft.ready()) {
        text.writing.take(text.draft.hand_over(text.sequence()));
        text.may_draft = true;
    }
    if (!text.writing.finished()) text.writing.end_if_full();
    while (!text.writing.empty()) events_.push_back({text.text, text.writing.pop()});
    if (text.writing.finished()) end(text, text.writing.finish_reason());
    const std::lock_guard<std::mutex> lock(text.text->mutex_);
    const auto append = [](auto& to, const auto& from) {
        to.insert(to.end(), from.begin() + static_cast<std::ptrdiff_t>(to.size()), from.end());
    };
    Sequence& published = text.text->published_;
    append(published.tokens, text.sequence().tokens);
    append(published.calls, text.sequence().calls);
    published.stats = text.sequence().stats;
}

void Loop::end(Running& text, FinishReason reason) {
    if (text.text->finish_reason() != FinishReason::none) return;
    if (!text.writing.finished()) text.writing.finish(reason);
    while (!text.writing.empty()) events_.push_back({text.text, text.writing.pop()});
    if (text.slot)
        for (const auto& expert : experts_) expert->leave(*text.slot);
    text.slot.reset();
    text.asked.clear();
    {
        const std::lock_guard<std::mutex> lock(text.text->mutex_);
        text.text->end_step_ = text.writing.end_step();
        text.text->error_ = text.error;
    }
    text.text->finish_reason_.store(reason);
    slots_.leave(*text.text);
    events_.push_back({text.text, std::nullopt});
}

void Loop::forget() {
    for (const auto& expert : experts_) expert->forget();
    saved_.clear();
}

bool Loop::know(const std::vector<KnownText>& texts) {
    forget();
    if (saved_.know(experts_, texts)) return true;
    forget();
    return false;
}

}  // namespace colm
