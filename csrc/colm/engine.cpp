#include "colm/engine.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "colm/error.h"

namespace colm {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

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

Step Engine::step(Sequence& sequence, Router& router, Interrupt& interrupt) {
    const Exclusive exclusive(*this);
    const auto start = Clock::now();
    Stats& stats = sequence.stats;
    const bool first_step = stats.base_steps == 0;
    double prefill_s = 0.0;

    Decision decision(sequence, router, choices_);
    if (decision.needs_base()) {
        const std::size_t n_calls = sequence.calls.size();
        const Output output =
            base_.read(sequence.tokens, router.head->needs_hidden(), interrupt, sequence.calls);
        stats.base_tokens_read += tokens_read(sequence.calls, n_calls);
        ++stats.base_steps;
        if (first_step) prefill_s += seconds_since(start);
        decision.hear_base(output);
    }
    Step step;
    if (decision.defers()) {
        const auto assistant_start = Clock::now();
        const std::size_t n_calls = sequence.calls.size();
        const Output output = assistant_.read(sequence.tokens, false, interrupt, sequence.calls);
        stats.assistant_tokens_read += tokens_read(sequence.calls, n_calls);
        if (stats.assistant_calls++ == 0) prefill_s += seconds_since(assistant_start);
        step = decision.choose(output);
    } else {
        step = decision.choose();
    }
    append(step, sequence, router);
    stats.prefill_s += prefill_s;
    stats.decode_s += seconds_since(start) - prefill_s;
    return step;
}

std::size_t Engine::n_ctx() const { return std::min(base_.model().n_ctx(), assistant_.model().n_ctx()); }

void Engine::reset() {
    const Exclusive exclusive(*this);
    base_.reset();
    assistant_.reset();
}

}  // namespace colm
