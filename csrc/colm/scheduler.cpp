#include "colm/scheduler.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "colm/error.h"

namespace colm {

using Clock = std::chrono::steady_clock;

struct Scheduler::Running {
    Running(std::size_t name, Writing text) : number(name), writing(std::move(text)) {}

    // Does what may fail for this text alone.
    template <typename Work>
    void attempt(Work work) {
        try {
            work();
        } catch (...) {
            fail();
        }
    }
    void fail() {
        error = std::current_exception();
        writing.finish(FinishReason::failed);
    }

    std::size_t number;
    Writing writing;
    std::optional<Decision> decision;  // of the step in progress
    Step step;
    std::exception_ptr error;
    std::optional<Clock::time_point> begin;
};

Scheduler::Scheduler(std::shared_ptr<BatchModel> base, std::shared_ptr<BatchModel> assistant, Choices choices)
    : base_(std::move(base), Source::base),
      assistant_(std::move(assistant), Source::assistant),
      choices_(std::move(choices)),
      running_(base_.model().n_sequences()) {}

Scheduler::~Scheduler() = default;

std::size_t Scheduler::n_ctx() const { return std::min(base_.n_ctx(), assistant_.n_ctx()); }

void Scheduler::add(std::size_t number, Writing writing) {
    waiting_.push_back(std::make_unique<Running>(number, std::move(writing)));
    ++n_texts_;
}

std::optional<Scheduler::Finished> Scheduler::next(Interrupt& interrupt) {
    while (finished_.empty()) {
        begin_waiting();
        const bool idle = std::all_of(running_.begin(), running_.end(), [](const auto& r) { return !r; });
        if (!idle) {
            try {
                step(interrupt);
            } catch (const Cancelled&) {
                // The base may have read what the step asks for again, and would have no output for it.
                base_.clear();
                throw;
            }
        } else if (waiting_.empty() && finished_.empty())
            return std::nullopt;
    }
    const std::unique_ptr<Running> text = std::move(finished_.front());
    finished_.pop_front();
    --n_texts_;
    return Finished{text->number, std::move(text->writing), text->error};
}

void Scheduler::begin_waiting() {
    for (auto& place : running_) {
        while (!place && !waiting_.empty()) {
            place = std::move(waiting_.front());
            waiting_.pop_front();
            place->writing.end_if_full();
            if (place->writing.finished()) finished_.push_back(std::move(place));
        }
    }
}

void Scheduler::step(Interrupt& interrupt) {
    interrupt.check();
    const auto now = Clock::now();
    ++n_steps_;
    Places asking;
    bool hidden = false;
    for (std::size_t i = 0; i < running_.size(); ++i) {
        Running* text = running_[i].get();
        if (text == nullptr || text->error) continue;  // failed before a step that was cancelled
        if (!text->begin) text->begin = now;
        text->attempt([&] {
            text->decision.emplace(text->writing.sequence(), text->writing.router(), choices_);
            if (!text->decision->needs_base()) return;
            asking.push_back(i);
            hidden = hidden || text->writing.router().head->needs_hidden();
        });
    }
    read(base_, asking, {}, hidden, interrupt, [&](std::size_t i, const Output& output) {
        Running& text = *running_[asking[i]];
        ++text.writing.sequence().stats.base_steps;
        text.attempt([&] {
            text.decision->hear_base(output);
            text.decision->defers();  // refuses a z that is NaN
        });
    });
    Places staying;
    Places deferring;
    Places along;
    for (std::size_t i = 0; i < running_.size(); ++i) {
        if (!running_[i] || running_[i]->error) continue;
        const bool defers = running_[i]->decision->defers();
        (defers ? deferring : staying).push_back(i);
        if (!defers && assistant_.n_read(i) > 0) along.push_back(i);
    }
    read(assistant_, deferring, along, false, interrupt, [&](std::size_t i, const Output& output) {
        Running& text = *running_[deferring[i]];
        ++text.writing.sequence().stats.assistant_calls;
        text.attempt([&] { text.step = text.decision->choose(output); });
    });

    // Only now: a draw cannot be taken back where the assistant's read is cancelled.
    for (const std::size_t i : staying)
        if (!running_[i]->error)
            running_[i]->attempt([&] { running_[i]->step = running_[i]->decision->choose(); });

    bool failed = false;
    for (std::size_t i = 0; i < running_.size(); ++i) {
        Running* text = running_[i].get();
        if (text == nullptr) continue;
        if (!text->error)
            text->attempt([&] {
                append(text->step, text->writing.sequence(), text->writing.router());
                text->writing.take(std::move(text->step));
                if (!text->writing.finished()) text->writing.end_if_full();
            });
        failed = failed || text->error;
        if (text->writing.finished()) end(i);
    }
    // The cells of a text whose values are not finite would reach those that share them.
    if (failed) {
        base_.clear();
        assistant_.clear();
    }
}

// The texts at `places`, whose outputs are wanted, and those `along` with them, where there are any. Where a
// decode fails, all of them do: their outputs are gone with it.
void Scheduler::read(BatchReader& reader, const Places& places, const Places& along, bool hidden,
                     Interrupt& interrupt, const BatchReader::Use& use) {
    if (places.empty()) return;
    std::vector<BatchReader::Request> requests;
    std::vector<std::size_t> n_calls;
    for (const Places* group : {&places, &along})
        for (const std::size_t place : *group) {
            Sequence& text = running_[place]->writing.sequence();
            requests.push_back({place, &text, group == &places});
            n_calls.push_back(text.calls.size());
        }
    const auto count = [&] {
        for (std::size_t i = 0; i < requests.size(); ++i) {
            Stats& stats = requests[i].text->stats;
            (&reader == &base_ ? stats.base_tokens_read : stats.assistant_tokens_read) +=
                tokens_read(requests[i].text->calls, n_calls[i]);
        }
    };
    try {
        reader.read(requests, hidden, interrupt, use);
        count();
    } catch (const Error&) {
        count();
        for (const BatchReader::Request& request : requests)
            if (!running_[request.place]->error) running_[request.place]->fail();
    }
}

void Scheduler::end(std::size_t place) {
    base_.forget(place);
    assistant_.forget(place);
    Running& text = *running_[place];
    text.decision.reset();
    text.writing.sequence().stats.decode_s =
        std::chrono::duration<double>(Clock::now() - *text.begin).count();
    finished_.push_back(std::move(running_[place]));
}

}  // namespace colm
