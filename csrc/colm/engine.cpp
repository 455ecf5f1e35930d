#include "colm/engine.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include "colm/error.h"

namespace colm {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

std::size_t tokens_read(const std::vector<DecodeCall>& calls, std::size_t from) {
    std::size_t n = 0;
    for (std::size_t i = from; i < calls.size(); ++i) n += static_cast<std::size_t>(calls[i].n_tokens);
    return n;
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
      n_shared_(n_shared),
      blocked_(std::move(blocked)) {}

Routed Engine::route(const Output& output, Token defer_token, std::size_t k) const {
    // Ids of a tail are beyond the view; the deferral token and padding inside it are put out of reach in
    // place.
    for (const Token token : blocked_)
        output.logits[static_cast<std::size_t>(token)] = -std::numeric_limits<float>::infinity();
    if (defer_token != kNoToken && static_cast<std::size_t>(defer_token) < n_shared_)
        output.logits[static_cast<std::size_t>(defer_token)] = -std::numeric_limits<float>::infinity();
    const View<const float> logits{output.logits.data, n_shared_};
    return {logits, summarize(logits, k)};
}

Step Engine::step(Sequence& sequence, Router& router, Interrupt& interrupt) {
    const Exclusive exclusive(*this);
    const auto start = Clock::now();
    Stats& stats = sequence.stats;
    const Head& head = *router.head;
    const bool first_step = stats.base_steps == 0;
    double prefill_s = 0.0;

    Step step;
    step.threshold = router.policy.threshold_at(sequence.n_generated(), stats.n_deferred);
    const Token defer_token = head.defer_token();
    HeadInput input;
    input.position = sequence.tokens.size();
    input.seed = router.seed;
    Routed base;
    std::size_t n_calls = sequence.calls.size();
    if (head.needs_base() || router.mixer.needs_base() ||
        !Policy::defers(head.defer_logit(input), step.threshold)) {
        const Output output = base_.read(sequence.tokens, head.needs_hidden(), interrupt, sequence.calls);
        stats.base_tokens_read += tokens_read(sequence.calls, n_calls);
        ++stats.base_steps;
        if (first_step) prefill_s += seconds_since(start);
        if (defer_token != kNoToken) input.token_logit = output.logits[static_cast<std::size_t>(defer_token)];
        base = route(output, defer_token, head.n_top_logits());
        input.hidden = output.hidden;
        input.distribution = &base.distribution;
    }
    step.defer_logit = head.defer_logit(input);
    Routed routed = base;
    if (Policy::defers(step.defer_logit, step.threshold)) {
        step.source = Source::assistant;
        const auto assistant_start = Clock::now();
        n_calls = sequence.calls.size();
        const Output other = assistant_.read(sequence.tokens, false, interrupt, sequence.calls);
        stats.assistant_tokens_read += tokens_read(sequence.calls, n_calls);
        if (stats.assistant_calls++ == 0) prefill_s += seconds_since(assistant_start);
        const Routed assistant = route(other, defer_token, 0);
        routed = router.mixer.mix(base, assistant, step.defer_logit);
        step.token = router.sampler->choose(routed.logits, routed.distribution);
        if (step.token == kNoToken && router.mixer.strategy() == Strategy::contrastive) {
            // The plausibility cutoff left nothing that the grammar or a ban allows.
            routed = assistant;
            step.token = router.sampler->choose(routed.logits, routed.distribution);
        }
    } else {
        step.token = router.sampler->choose(routed.logits, routed.distribution);
    }
    if (step.token == kNoToken) throw GenerationError(router.sampler->why_none());

    step.logprob = routed.logits[static_cast<std::size_t>(step.token)] - routed.distribution.log_normalizer;
    step.top_logprobs = top_logprobs(routed.logits, routed.distribution, router.n_logprobs);
    router.sampler->accept(step.token);
    sequence.tokens.push_back(step.token);
    if (step.source == Source::assistant) ++stats.n_deferred;
    router.policy.observe(step.defer_logit);
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
