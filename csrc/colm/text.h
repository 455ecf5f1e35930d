// One text of a loop, as those see it who gave it. Any thread may look while it is written.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>

#include "colm/sequence.h"
#include "colm/text_stream.h"
#include "colm/types.h"

namespace colm {

using TextId = std::uint64_t;

class Text {
  public:
    Text(TextId id, const Sequence& prompt) : id_(id), published_(prompt) {}

    TextId id() const { return id_; }
    // Whether it is, or was, computed.
    bool begun() const { return begun_.load(); }
    // Why it ended; `none` before it did.
    FinishReason finish_reason() const { return finish_reason_.load(); }
    // Tokens, counts, times and decodes up to the last finished step.
    Sequence sequence() const {
        const std::lock_guard<std::mutex> lock(mutex_);
        return published_;
    }
    // The end-of-generation token that ended the text (finish reason `eos`), with who chose it.
    std::optional<Step> end_step() const {
        const std::lock_guard<std::mutex> lock(mutex_);
        return end_step_;
    }
    // Of a text that failed.
    std::exception_ptr error() const {
        const std::lock_guard<std::mutex> lock(mutex_);
        return error_;
    }

  private:
    friend class Inbox;
    friend class Loop;
    friend class Slots;
    using Clock = std::chrono::steady_clock;

    const TextId id_;
    std::atomic<bool> begun_{false};
    std::atomic<FinishReason> finish_reason_{FinishReason::none};
    std::atomic<bool> cancelled_{false};

    mutable std::mutex mutex_;
    Sequence published_;
    std::optional<Step> end_step_;
    std::exception_ptr error_;

    // Whether somebody waits for its next token. These are the loop's, under its lock.
    bool wanted_ = false;
    bool has_slot_ = false;
    std::thread::id reader_;     // who waits, or did last
    Clock::time_point since_{};  // when that began, or ended
    Clock::duration patience_{};
    Clock::duration idle_{};  // how long others have waited for its reader
};

}  // namespace colm
