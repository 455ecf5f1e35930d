#include "colm/remote_expert.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <string>
#include <utility>

#include "colm/error.h"

#ifndef _WIN32
#include <unistd.h>
#endif

namespace colm {
namespace {

long this_process() {
#ifdef _WIN32
    return 0;  // it has no fork
#else
    return getpid();
#endif
}

// How long one call of collect() waits: the loop looks for new texts and cancelled ones in between.
constexpr std::chrono::milliseconds kWait{10};

}  // namespace

RemoteExpert::RemoteExpert(std::shared_ptr<RemoteCalls> calls, const RemoteLimits& limits)
    : calls_(std::move(calls)),
      limits_(limits),
      shared_(std::make_unique<Shared>(limits.n_slots)),
      process_(this_process()) {}

// A condition is destroyed once nobody waits for it. In a forked child those who wait are no more, and that
// would take for ever: what they share is left to the end of the process.
RemoteExpert::~RemoteExpert() {
    stop();
    if (is_forked()) static_cast<void>(shared_.release());
}

bool RemoteExpert::is_forked() const { return process_ != this_process(); }

void RemoteExpert::ask(std::vector<Question> questions) {
    const std::lock_guard<std::mutex> lock(shared_->mutex);
    for (const Question& question : questions) {
        if (question.counts.empty()) continue;  // nothing to read in this process
        if (shared_->over) {
            shared_->answered.push_back({question.slot, {}, std::make_exception_ptr(PairClosed())});
            continue;
        }
        Slot& slot = shared_->slots[question.slot];
        // A copy: the text goes on, or back, before the answer comes.
        const auto n = static_cast<std::ptrdiff_t>(question.counts.back());
        slot.number = ++shared_->n_asked;
        slot.asked = Asked{slot.number,
                           {question.tokens->begin(), question.tokens->begin() + n},
                           question.counts,
                           {question.excluded.begin(), question.excluded.end()}};
        if (!slot.thread.joinable()) slot.thread = std::thread(&RemoteExpert::serve, this, question.slot);
        slot.changed.notify_one();
    }
}

void RemoteExpert::collect(bool wait, Interrupt& interrupt, const Use& use) {
    std::vector<Answered> answered;
    std::unique_lock<std::mutex> lock(shared_->mutex);
    if (wait) shared_->answered_changed.wait_for(lock, kWait, [this] { return !shared_->answered.empty(); });
    lock.unlock();
    interrupt.check();
    lock.lock();
    answered.swap(shared_->answered);
    lock.unlock();
    for (const Answered& one : answered) {
        for (std::size_t i = 0; i < one.likeliest.size(); ++i) {
            Prediction prediction;
            prediction.likeliest = {one.likeliest[i].candidates.data(), one.likeliest[i].candidates.size()};
            prediction.tail = one.likeliest[i].tail;
            use({one.slot, i, &prediction, nullptr});
        }
        if (one.error) use({one.slot, 0, nullptr, one.error});
    }
}

void RemoteExpert::drop(std::size_t slot) {
    const std::lock_guard<std::mutex> lock(shared_->mutex);
    shared_->slots[slot].asked.reset();
    shared_->slots[slot].number = 0;
    auto& all = shared_->answered;
    all.erase(std::remove_if(all.begin(), all.end(), [slot](const auto& a) { return a.slot == slot; }),
              all.end());
}

void RemoteExpert::leave(std::size_t slot) {
    drop(slot);
    shared_->slots[slot].left = shared_->n_asked.load();
}

void RemoteExpert::stop() {
    if (is_forked()) return;
    {
        const std::lock_guard<std::mutex> lock(shared_->mutex);
        shared_->over = true;
        for (Slot& slot : shared_->slots) slot.changed.notify_one();
    }
    calls_->wait([this] {
        const std::lock_guard<std::mutex> lock(joining_);
        for (Slot& slot : shared_->slots)
            if (slot.thread.joinable()) slot.thread.join();
    });
}

void RemoteExpert::serve(std::size_t number) {
    Slot& slot = shared_->slots[number];
    std::unique_lock<std::mutex> lock(shared_->mutex);
    while (true) {
        slot.changed.wait(lock, [&] { return shared_->over || slot.asked; });
        if (!slot.asked) return;
        const Asked asked = std::move(*slot.asked);
        slot.asked.reset();
        Answered answered{number, {}, nullptr};
        if (shared_->over) {
            answered.error = std::make_exception_ptr(PairClosed());
        } else {
            lock.unlock();
            answered = answer(number, asked);
            lock.lock();
        }
        if (slot.number != asked.number) continue;  // it was dropped meanwhile
        shared_->answered.push_back(std::move(answered));
        shared_->answered_changed.notify_one();
    }
}

RemoteExpert::Answered RemoteExpert::answer(std::size_t slot, const Asked& asked) {
    Answered answered{slot, {}, nullptr};
    try {
        const auto wanted = [this, slot, number = asked.number] {
            return !shared_->over && shared_->slots[slot].left < number;
        };
        answered.likeliest = calls_->ask(slot, asked.tokens, asked.counts, wanted);
        if (answered.likeliest.size() != asked.counts.size())
            throw GenerationError("a model elsewhere was asked for " + std::to_string(asked.counts.size()) +
                                  " distributions and gave " + std::to_string(answered.likeliest.size()));
        for (Likeliest& one : answered.likeliest) keep_choices(one, asked.excluded);
    } catch (...) {
        answered.likeliest.clear();
        answered.error = std::current_exception();
    }
    return answered;
}

// Ids that may not be chosen are no part of the distribution: their probability belongs to the others.
void RemoteExpert::keep_choices(Likeliest& likeliest, const std::vector<Token>& excluded) const {
    double lost = 0.0;
    double left = likeliest.tail;
    const auto never = [&](const Candidate& candidate) {
        const bool is_id = candidate.token >= 0 && static_cast<std::size_t>(candidate.token) < limits_.n_ids;
        const bool out = !is_id || std::binary_search(excluded.begin(), excluded.end(), candidate.token);
        (out ? lost : left) += std::exp(static_cast<double>(candidate.logit));
        return out;
    };
    auto& all = likeliest.candidates;
    all.erase(std::remove_if(all.begin(), all.end(), never), all.end());
    if (lost <= 0.0 || left <= 0.0) return;
    for (Candidate& candidate : all) candidate.logit -= static_cast<float>(std::log(left));
    likeliest.tail /= left;
}

}  // namespace colm
