#include "colm/engine.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "colm/error.h"

namespace colm {
namespace {

using Clock = std::chrono::steady_clock;

// The longest batch of the assistant's that says something about those of a few tokens.
constexpr std::size_t kMeasuredBatch = 32;
// Tokens that may lie beyond the text: draft tokens, and what the base wrote behind them.
constexpr std::size_t kMostAhead = 32;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

// Adds what a step took to `decode_s`, but for what it counted as prefill.
class Stopwatch {
  public:
    explicit Stopwatch(Stats& stats) : stats_(stats), prefill_s_(stats.prefill_s) {}
    ~Stopwatch() { stats_.decode_s += seconds_since(start_) - (stats_.prefill_s - prefill_s_); }
    Stopwatch(const Stopwatch&) = delete;
    Stopwatch& operator=(const Stopwatch&) = delete;

  private:
    Stats& stats_;
    double prefill_s_;
    Clock::time_point start_ = Clock::now();
};

}  // namespace

// The engine to itself. A thread that has it already would wait for itself forever.
class Engine::Exclusive {
  public:
    explicit Exclusive(Engine& engine) : engine_(engine) {
        if (engine.computing_.load() == std::this_thread::get_id())
            throw GenerationError(
                "the pair is computing in this very thread; a signal handler cannot use it");
        engine.mutex_.lock();
        engine.computing_.store(std::this_thread::get_id());
    }
    ~Exclusive() {
        engine_.computing_.store(std::thread::id());
        engine_.mutex_.unlock();
    }
    Exclusive(const Exclusive&) = delete;
    Exclusive& operator=(const Exclusive&) = delete;

  private:
    Engine& engine_;
};

Engine::Engine(std::unique_ptr<LanguageModel> base, std::unique_ptr<LanguageModel> assistant,
               std::size_t n_shared, std::vector<Token> blocked)
    : base_(std::move(base), Source::base),
      assistant_(std::move(assistant), Source::assistant),
      choices_{n_shared, std::move(blocked)} {}

// The base's output after `tokens`; what it took is the sequence's.
Output Engine::read_base(const std::vector<Token>& tokens, bool hidden, Sequence& sequence,
                         Interrupt& interrupt) {
    const auto start = Clock::now();
    const std::size_t n_calls = sequence.calls.size();
    const Output output = base_.read(tokens, hidden, interrupt, sequence.calls);
    const double seconds = seconds_since(start);
    const std::size_t n_read = tokens_read(sequence.calls, n_calls);
    if (n_read == 1) estimates_.base_step(seconds);
    Stats& stats = sequence.stats;
    stats.base_tokens_read += n_read;
    if (stats.base_steps++ == 0) stats.prefill_s += seconds;
    return output;
}

// Notes what reading with the assistant took, all of it from the `n_calls`-th decode on.
void Engine::asked_assistant(Clock::time_point start, std::size_t n_calls, Sequence& sequence) {
    const double seconds = seconds_since(start);
    const std::size_t n_read = tokens_read(sequence.calls, n_calls);
    const bool one_batch = sequence.calls.size() == n_calls + 1;
    if (one_batch && n_read <= kMeasuredBatch) estimates_.assistant_batch(n_read, seconds);
    Stats& stats = sequence.stats;
    stats.assistant_tokens_read += n_read;
    if (stats.assistant_calls++ == 0) stats.prefill_s += seconds;
}

Output Engine::read_assistant(const std::vector<Token>& tokens, Sequence& sequence, Interrupt& interrupt) {
    const auto start = Clock::now();
    const std::size_t n_calls = sequence.calls.size();
    const Output output = assistant_.read(tokens, false, interrupt, sequence.calls);
    asked_assistant(start, n_calls, sequence);
    return output;
}

Step Engine::step(Sequence& sequence, Router& router, Interrupt& interrupt) {
    const Exclusive exclusive(*this);
    return plain_step(sequence, router, interrupt);
}

Step Engine::plain_step(Sequence& sequence, Router& router, Interrupt& interrupt) {
    const Stopwatch stopwatch(sequence.stats);
    Decision decision(sequence, router, choices_);
    if (decision.needs_base())
        decision.hear_base(read_base(sequence.tokens, router.head->needs_hidden(), sequence, interrupt));
    const Step step = decision.defers()
                          ? decision.choose(read_assistant(sequence.tokens, sequence, interrupt))
                          : decision.choose();
    append(step, sequence, router);
    return step;
}

Step Engine::step(Sequence& sequence, Router& router, Draft& draft, Interrupt& interrupt) {
    if (draft.ready()) return draft.hand_over(sequence);
    const Exclusive exclusive(*this);
    sequence.stats.lookahead = draft.lookahead() != 0 && can_look_ahead();
    if (draft.n_ahead() == 0 && !sequence.stats.lookahead) return plain_step(sequence, router, interrupt);
    const Stopwatch stopwatch(sequence.stats);
    bool may_draft = true;
    while (!draft.ready()) {
        if (draft.n_open() == 0) {
            go_on(sequence, router, draft, may_draft, interrupt);
        } else if (!may_go_on(draft)) {
            ask(sequence, router, draft, interrupt);
        } else {
            try {
                if (!go_on(sequence, router, draft, true, interrupt)) ask(sequence, router, draft, interrupt);
            } catch (const GenerationError&) {
                // This text may never be written. If it is, the same error comes back without a draft.
                draft.forget_open(router);
                may_draft = false;
            }
        }
    }
    return draft.hand_over(sequence);
}

bool Engine::go_on(Sequence& sequence, Router& router, Draft& draft, bool may_draft, Interrupt& interrupt) {
    const std::vector<Token>& tokens = draft.text().tokens;
    auto decision = std::make_unique<Decision>(draft.text(), router, choices_);
    const auto hear_base = [&] {
        decision->hear_base(read_base(tokens, router.head->needs_hidden(), sequence, interrupt));
    };
    const bool needs_base = decision->needs_base();
    if (needs_base) hear_base();
    const bool defers = decision->defers();
    estimates_.position(defers);
    if (!defers) {
        draft.add(decision->choose(), router);
        return true;
    }
    const bool first = draft.n_open() == 0;
    if (may_draft && (needs_base || draft.lookahead() != kAutoLookahead)) {
        if (!needs_base) hear_base();
        const double p = estimates_.acceptance_rate(decision->base_log_odds());
        if (!first || draft.lookahead() != kAutoLookahead || estimates_.worth_going_on(p)) {
            const Step step = decision->draft();
            if (step.token != kNoToken) {
                draft.add_draft_token(std::move(decision), step, p, router);
                return true;
            }
        }
    }
    if (!first) return false;
    const Step step = decision->choose(read_assistant(tokens, sequence, interrupt));
    if (needs_base) estimates_.verified(decision->base_log_odds(), step.token == decision->base_top());
    draft.add(step, router);
    return true;
}

void Engine::ask(Sequence& sequence, Router& router, Draft& draft, Interrupt& interrupt) {
    const std::vector<Token>& tokens = draft.text().tokens;
    std::vector<std::size_t> counts = draft.open_positions();
    const std::size_t n_open = counts.size();
    // Where the next token does not depend on the base, the assistant writes it in the same batch.
    std::unique_ptr<Decision> next;
    if (draft.can_go_on()) {
        next = std::make_unique<Decision>(draft.text(), router, choices_);
        if (next->needs_base() || !next->defers())
            next.reset();
        else
            counts.push_back(tokens.size());
    }
    const auto start = Clock::now();
    const std::size_t n_calls = sequence.calls.size();
    Stats& stats = sequence.stats;
    bool accepted = true;
    const auto use = [&](std::size_t i, const Output& output) {
        if (i == 0) asked_assistant(start, n_calls, sequence);
        if (!accepted) return;
        double log_odds = 0.0;
        try {
            if (i == n_open) return draft.add(next->choose(output), router);
            log_odds = draft.first_log_odds();
            accepted = draft.verify(output, router);
        } catch (const GenerationError&) {
            if (i == 0) throw;
            // The tokens before it are certain all the same. The error comes back when they are written.
            accepted = false;
            if (draft.n_open() > 0) draft.forget_open(router);
            return;
        }
        estimates_.verified(log_odds, accepted);
        ++stats.n_drafted;
        if (accepted) ++stats.n_accepted;
    };
    assistant_.read_at(tokens, counts, interrupt, sequence.calls, use);
}

bool Engine::may_go_on(const Draft& draft) const {
    if (!draft.can_go_on()) return false;
    const bool fixed = draft.lookahead() != kAutoLookahead;
    const std::size_t most = fixed ? static_cast<std::size_t>(draft.lookahead()) : kMostLookahead;
    const std::size_t n_outputs = assistant_.model().n_outputs();
    if (draft.n_open() >= std::min(most, n_outputs - 1)) return false;
    if (draft.n_ahead() + 1 >= std::min(kMostAhead, assistant_.model().n_batch())) return false;
    return fixed || estimates_.worth_going_on(draft.confidence());
}

bool Engine::can_look_ahead() const {
    return base_.rewinds() && assistant_.rewinds() && assistant_.model().n_outputs() >= 2 &&
           assistant_.model().n_batch() >= 2;
}

std::size_t Engine::n_ctx() const { return std::min(base_.model().n_ctx(), assistant_.model().n_ctx()); }

std::vector<double> Engine::replay(const std::vector<Token>& tokens, const std::vector<DecodeCall>& calls,
                                   Interrupt& interrupt) {
    const Exclusive exclusive(*this);
    base_.reset();
    assistant_.reset();
    struct Place {
        LanguageModel& model;
        std::size_t n_held;
    };
    Place places[] = {{base_.model(), 0}, {assistant_.model(), 0}};
    std::vector<double> seconds;
    for (const DecodeCall& call : calls) {
        Place& place = places[call.model == Source::base ? 0 : 1];
        const auto position = static_cast<std::size_t>(call.position);
        const auto n_tokens = static_cast<std::size_t>(call.n_tokens);
        if (call.position < 0 || call.n_tokens < 1 || position > place.n_held ||
            position + n_tokens > tokens.size() || n_tokens > place.model.n_batch())
            throw OptionError("decode " + std::to_string(seconds.size()) + " of " +
                              std::to_string(call.n_tokens) + " tokens at position " +
                              std::to_string(call.position) + " does not follow " +
                              std::to_string(place.n_held) + " tokens of " + std::to_string(tokens.size()));
        const Want want = call.hidden ? Want::logits_and_hidden : call.outputs ? Want::logits : Want::nothing;
        const auto start = Clock::now();
        if (position < place.n_held) place.n_held = place.model.rewind(position);
        if (place.n_held < position)
            throw OptionError("a model that cannot go back cannot repeat a decode at position " +
                              std::to_string(position));
        place.model.eval({tokens.data() + position, n_tokens}, position, want, interrupt);
        seconds.push_back(seconds_since(start));
        place.n_held = position + n_tokens;
    }
    base_.reset();
    assistant_.reset();
    return seconds;
}

void Engine::reset() {
    const Exclusive exclusive(*this);
    base_.reset();
    assistant_.reset();
}

}  // namespace colm
