#include "colm/loop.h"

#include <algorithm>
#include <utility>

#include "colm/error.h"

namespace colm {
namespace {

// The longest batch of an expert's that says something about those of a few tokens.
constexpr std::size_t kMeasuredBatch = 32;
// Tokens that may lie beyond a text: draft tokens, and what the base wrote behind them.
constexpr std::size_t kMostAhead = 32;

bool has_nan(View<const float> logits) {
    bool found = false;
    for (const float x : logits) found |= x != x;
    return found;
}

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
      now_(std::move(now)) {}

Loop::~Loop() = default;

std::size_t Loop::n_ctx() const {
    std::size_t n = experts_.front()->n_ctx();
    for (const auto& expert : experts_) n = std::min(n, expert->n_ctx());
    return n;
}

// -- from any thread

std::shared_ptr<Text> Loop::add(Writing writing, int lookahead) {
    const std::lock_guard<std::mutex> lock(inbox_mutex_);
    auto text = std::make_shared<Text>(next_id_++, writing.sequence());
    added_.push_back(std::make_unique<Running>(text, std::move(writing), lookahead, choices_));
    return text;
}

bool Loop::cancel(Text& text) {
    const std::lock_guard<std::mutex> lock(inbox_mutex_);
    text.cancelled_.store(true);
    const bool in_step = std::find(in_step_.begin(), in_step_.end(), &text) != in_step_.end();
    if (!in_step && slots_.leave_queue(text)) {
        text.finish_reason_.store(FinishReason::cancelled);
        return true;
    }
    if (computing_ == nullptr || in_step_.empty()) return false;
    const auto cancelled = [](const Text* t) { return t->cancelled_.load(); };
    if (!std::all_of(in_step_.begin(), in_step_.end(), cancelled)) return false;
    stopped_ = true;
    computing_->request();
    return false;
}

// -- a step

std::vector<Event> Loop::step(Interrupt& interrupt) {
    const Moving moving = begin_step(interrupt);
    const double begin = now_();
    std::vector<std::pair<Running*, double>> computed;  // and what reading its prompt took before
    for (const auto& text : running_)
        if (is_computed(*text)) computed.emplace_back(text.get(), text->stats().prefill_s);
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
    for (const auto& [text, prefill_s] : computed) {
        Stats& stats = text->stats();
        if (text->waits_for(kBase) && stats.base_steps == 0)
            stats.prefill_s += now_() - begin;
        else
            stats.decode_s += now_() - begin - (stats.prefill_s - prefill_s);
    }
    for (const auto& text : running_)
        if (text->slot) hand_over(*text);
    if (std::exchange(damaged_, false))
        // Cells of a text whose values are not finite would reach those that share the cache.
        for (const auto& expert : experts_) expert->forget();
    for (const auto& text : running_)
        if (text->text->finish_reason() != FinishReason::none) slots_.leave(*text->text);
    running_.erase(
        std::remove_if(running_.begin(), running_.end(),
                       [](const auto& r) { return r->text->finish_reason() != FinishReason::none; }),
        running_.end());
    {
        const std::lock_guard<std::mutex> lock(inbox_mutex_);
        computing_ = nullptr;
        in_step_.clear();
        if (std::exchange(stopped_, false)) {
            interrupt.withdraw();
            cancelled = nullptr;
        }
    }
    idle_ = computed.empty();
    if (cancelled) std::rethrow_exception(cancelled);
    return std::exchange(events_, {});
}

// The texts that this step moves.
Loop::Moving Loop::begin_step(Interrupt& interrupt) {
    take_in();
    fill_slots();
    Moving moving;
    for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
        Running* text = running_at(slot);
        if (text != nullptr && !text->asked && slots_.wanted(*text->text)) moving.push_back(text);
    }
    const std::lock_guard<std::mutex> lock(inbox_mutex_);
    for (const auto& text : running_)
        if (is_computed(*text)) in_step_.push_back(text->text.get());
    computing_ = &interrupt;
    return moving;
}

// Whether a step moves the text, or an expert has yet to answer about it.
bool Loop::is_computed(const Running& text) const {
    return text.slot && (text.asked || slots_.wanted(*text.text));
}

// New texts, and those that were cancelled.
void Loop::take_in() {
    {
        const std::lock_guard<std::mutex> lock(inbox_mutex_);
        std::move(added_.begin(), added_.end(), std::back_inserter(running_));
        added_.clear();
    }
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
        const std::vector<Token>& tokens = text.draft.text().tokens;
        const std::size_t slot = saved_.choose(experts_, free, tokens);
        if (Running* before = running_at(slot)) {
            take_back(*before);
            before->slot.reset();
        }
        saved_.exchange(experts_, slot, tokens);
        slots_.give(slot, *waiting);
        text.slot = slot;
        text.text->begun_.store(true);
    }
}

// What an expert was asked about it is asked anew.
void Loop::take_back(Running& text) {
    if (!text.asked) return;
    if (text.asked->expert == kBase) text.decision.reset();
    experts_[text.asked->expert]->drop(*text.slot);
    text.asked.reset();
}

Running* Loop::running_at(std::size_t slot) const {
    const auto it =
        std::find_if(running_.begin(), running_.end(), [&](const auto& r) { return r->slot == slot; });
    return it == running_.end() ? nullptr : it->get();
}

// Does what may fail for this text alone. An error behind an open draft token may belong to a text that is
// never written: the draft goes back, and the expert is asked at once. If the error was real, it occurs
// again.
template <typename Work>
void Loop::attempt(Running& text, const Work& work) {
    try {
        work();
    } catch (const GenerationError&) {
        text.decision.reset();
        damaged_ = true;
        if (text.draft.n_open() == 0) return fail(text);
        text.draft.forget_open(text.deciders());
        text.may_draft = false;
    } catch (...) {
        fail(text);
    }
}

// -- the base

void Loop::read_base(const Moving& moving, Interrupt& interrupt) {
    std::vector<Question> questions;
    for (Running* text : moving) {
        text->stats().lookahead = text->draft.lookahead() != 0 && can_look_ahead(1);
        if (text->error || text->decision || !may_go_on(*text)) continue;
        attempt(*text, [&] {
            text->decision = std::make_unique<Decision>(text->draft.text(), text->deciders(), choices_);
            // A draft needs the base's choice, whoever decides.
            const bool drafts = text->draft.lookahead() > 0 && text->may_draft &&
                                !text->decision->needs_base() && can_look_ahead(text->decision->expert());
            if (!text->decision->needs_base() && !drafts) return decide(*text, false);
            Question asked = text->question(kBase);
            asked.counts = {asked.tokens->size()};
            questions.push_back(std::move(asked));
            text->asked = Asked{kBase, 0, true, true};
        });
    }
    const double begin = now_();
    std::size_t n_answered = 0;
    const Heard heard = collect(kBase, std::move(questions), moving, interrupt, [&](const Answer& answer) {
        Running& text = *running_at(answer.slot);
        text.asked.reset();
        ++n_answered;
        attempt(text, [&] {
            if (answer.error) std::rethrow_exception(answer.error);
            if (text.stats().base_steps++ == 0) text.stats().prefill_s += now_() - begin;
            text.decision->hear_base(*answer.prediction);
            decide(text, true);
        });
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
    const bool others_go_on =
        std::any_of(moving.begin(), moving.end(), [](const Running* text) { return !text->asked; });
    const double begin = now_();
    if (!questions.empty()) experts_[expert]->ask(std::move(questions));
    experts_[expert]->collect(!others_go_on, interrupt, [&](const Answer& answer) {
        if (!heard.seconds) heard.seconds = now_() - begin;
        hear(answer);
    });
    // A part of a long text says nothing about batches of a few tokens.
    if (std::any_of(running_.begin(), running_.end(), waits)) heard.seconds.reset();
    for (std::size_t i = 0; i < n_calls.size(); ++i) {
        const std::vector<DecodeCall>& calls = running_[i]->sequence().calls;
        const std::size_t n = tokens_read(calls, n_calls[i]);
        Stats& stats = running_[i]->stats();
        (expert == kBase ? stats.base_tokens_read : stats.assistant_tokens_read) += n;
        heard.n_read += n;
        heard.n_most = std::max(heard.n_most, calls.size() - n_calls[i]);
    }
    return heard;
}

// What becomes of a position, once it is known who writes it.
void Loop::decide(Running& text, bool heard_base) {
    Decision& decision = *text.decision;
    Draft& draft = text.draft;
    const ExpertId expert = decision.expert();
    estimates_.position(expert != kBase);
    if (expert == kBase) {
        draft.add(decision.choose(), text.deciders());
        text.decision.reset();
        return;
    }
    const bool fixed = draft.lookahead() != kAutoLookahead;
    if (heard_base && text.may_draft && draft.lookahead() != 0 && can_look_ahead(expert)) {
        const double p = estimates_.acceptance_rate(decision.base_log_odds());
        if (draft.n_open() > 0 || fixed || estimates_.worth_going_on({p}, expert, 1)) {
            const Step step = decision.draft();
            if (step.token != kNoToken)
                return draft.add_draft_token(std::move(text.decision), step, p, text.deciders());
        }
    }
    if (heard_base) decision.keep_base();
}

bool Loop::can_look_ahead(ExpertId expert) const {
    return expert < experts_.size() && experts_[kBase]->goes_back() && experts_[expert]->goes_back() &&
           experts_[expert]->n_counts() >= 2;
}

// Whether the base may read the text's next token.
bool Loop::may_go_on(const Running& text) const {
    const Draft& draft = text.draft;
    if (!draft.can_go_on()) return false;
    if (draft.n_open() == 0) return true;
    const std::size_t most =
        draft.lookahead() == kAutoLookahead ? kMostLookahead : static_cast<std::size_t>(draft.lookahead());
    return draft.n_open() < std::min(most, experts_[draft.first_expert()]->n_counts() - 1) &&
           draft.n_ahead() + 1 < kMostAhead;
}

// -- the other experts

// Whether the text cannot go on before its expert is asked.
bool Loop::blocked(const Running& text) const {
    if (text.error || text.asked) return false;
    return text.decision || (text.draft.n_open() > 0 && !may_go_on(text));
}

// Whether the experts are asked in this step: where a text is blocked, or where writing on does not pay.
bool Loop::must_ask(const Moving& moving) const {
    std::vector<double> p;
    std::size_t n_risked = 0;
    ExpertId expert = kBase;
    for (const Running* text : moving) {
        if (blocked(*text)) return true;
        if (text->error || text->draft.n_open() == 0 || text->draft.lookahead() != kAutoLookahead) continue;
        p.push_back(text->draft.confidence());
        n_risked += text->draft.n_risked();
        expert = text->draft.first_expert();
    }
    return !p.empty() && !estimates_.worth_going_on(p, expert, moving.size(), n_risked);
}

void Loop::ask_experts(const Moving& moving, Interrupt& interrupt) {
    std::vector<std::vector<Question>> questions(experts_.size());
    if (must_ask(moving)) {
        for (Running* text : moving)
            if (!text->error && !text->asked && text->open()) attempt(*text, [&] { ask(*text, questions); });
        // Every token is read once all the same, and the runs that are read are equally long for all texts,
        // which llama.cpp computes in one pass.
        for (ExpertId expert = 1; expert < questions.size(); ++expert) {
            if (questions[expert].empty()) continue;
            for (Running* text : moving) {
                if (text->error || text->asked || text->open()) continue;
                Question along = text->question(expert);
                along.n_along = along.tokens->size() - 1;  // without the token of this step
                const std::size_t n_held = experts_[expert]->n_held(*text->slot);
                if (n_held > 0 && n_held < along.n_along) questions[expert].push_back(std::move(along));
            }
        }
    }
    for (ExpertId expert = 1; expert < questions.size(); ++expert) {
        const double begin = now_();
        std::size_t n_answers = 0;
        Heard heard =
            collect(expert, std::move(questions[expert]), moving, interrupt, [&](const Answer& answer) {
                ++n_answers;
                hear(*running_at(answer.slot), answer, begin);
            });
        if (heard.n_read == 0) heard.n_read = n_answers;  // it does not say
        if (heard.seconds && heard.n_most <= 1 && heard.n_read <= kMeasuredBatch)
            estimates_.reading(expert, heard.n_read, *heard.seconds);
    }
}

// About what is open in the text: draft tokens, and the token that waits behind them.
void Loop::ask(Running& text, std::vector<std::vector<Question>>& questions) {
    Draft& draft = text.draft;
    // Where the next token does not depend on the base, the expert writes it in the same batch.
    if (!text.decision && draft.can_go_on()) {
        auto next = std::make_unique<Decision>(draft.text(), text.deciders(), choices_);
        if (!next->needs_base() && next->expert() == draft.first_expert()) text.decision = std::move(next);
    }
    Asked asked;
    asked.expert = draft.n_open() > 0 ? draft.first_expert() : text.decision->expert();
    Question question = text.question(asked.expert);
    if (draft.n_open() > 0) question.counts = draft.open_positions();
    asked.n_open = question.counts.size();
    asked.next = text.decision && asked.n_open == draft.n_open() && text.decision->expert() == asked.expert &&
                 asked.n_open < experts_[asked.expert]->n_counts();
    if (asked.next) question.counts.push_back(question.tokens->size());
    text.asked = asked;
    questions[asked.expert].push_back(std::move(question));
}

// An expert's answer about one open position. In this step it was waited for since `begin`.
void Loop::hear(Running& text, const Answer& answer, double begin) {
    Asked& asked = *text.asked;
    Stats& stats = text.stats();
    if (answer.count == 0 && !answer.error && stats.assistant_calls++ == 0) stats.prefill_s += now_() - begin;
    const bool last = answer.error || answer.count + 1 == asked.n_open + (asked.next ? 1 : 0);
    if (!asked.going) {
        // Behind a rejected draft token. What it shows of the cache concerns the other texts all the same.
        damaged_ = damaged_ || (answer.prediction != nullptr && has_nan(answer.prediction->logits));
    } else {
        try {
            if (answer.error) std::rethrow_exception(answer.error);
            if (answer.count > 0) estimates_.shared_call(asked.expert, in_step_.size());
            if (answer.count == asked.n_open) {
                const Step step = text.decision->choose(*answer.prediction);
                if (text.decision->needs_base())
                    estimates_.verified(text.decision->base_log_odds(),
                                        step.token == text.decision->base_top());
                text.draft.add(step, text.deciders());
                text.decision.reset();
            } else {
                const double log_odds = text.draft.first_log_odds();
                const std::size_t n_risked = text.draft.n_risked() + (text.decision ? 1 : 0);
                asked.going = text.draft.verify(*answer.prediction, text.deciders());
                estimates_.verified(log_odds, asked.going);
                if (!asked.going) estimates_.lost(asked.expert, n_risked);
                ++stats.n_drafted;
                if (asked.going) ++stats.n_accepted;
            }
        } catch (const GenerationError&) {
            // The tokens before it are certain all the same. The error comes back when they are written.
            asked.going = false;
            damaged_ = true;
            if (answer.count == 0)
                fail(text);
            else if (text.draft.n_open() > 0)
                text.draft.forget_open(text.deciders());
        } catch (...) {
            asked.going = false;
            fail(text);
        }
        if (!asked.going) text.decision.reset();
    }
    if (last) text.asked.reset();
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
        for (const auto& expert : experts_) expert->drop(*text.slot);
    text.slot.reset();
    text.asked.reset();
    {
        const std::lock_guard<std::mutex> lock(text.text->mutex_);
        text.text->end_step_ = text.writing.end_step();
        text.text->error_ = text.error;
    }
    text.text->finish_reason_.store(reason);
    slots_.leave(*text.text);
    events_.push_back({text.text, std::nullopt});
}

void Loop::fail(Running& text) {
    text.error = std::current_exception();
    text.decision.reset();
    text.writing.finish(FinishReason::failed);
    damaged_ = true;
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
