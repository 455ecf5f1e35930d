#include "llama/backend.h"

#include <ggml-backend.h>
#include <llama.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <deque>
#include <iterator>
#include <mutex>
#include <stdexcept>
#include <utility>

namespace colm::llama {
namespace {

constexpr std::size_t kMaxLines = 4096;

class LogQueue {
  public:
    void add(int level, const char* text) {
        const std::lock_guard<std::mutex> lock(mutex_);
        // A line may come in pieces: those after the first have the level CONT, the last ends in a newline.
        if (!open_) lines_.push_back({level, {}});
        lines_.back().text += text;
        std::string& line = lines_.back().text;
        open_ = line.empty() || line.back() != '\n';
        while (!line.empty() && (line.back() == '\n' || line.back() == ' ')) line.pop_back();
        if (lines_.size() <= kMaxLines) return;
        lines_.pop_front();
        ++n_gone_;
    }

    std::vector<LogLine> drain() {
        const std::lock_guard<std::mutex> lock(mutex_);
        std::vector<LogLine> lines(std::make_move_iterator(lines_.begin()),
                                   std::make_move_iterator(lines_.end()));
        n_gone_ += lines_.size();
        lines_.clear();
        open_ = false;
        return lines;
    }

    std::uint64_t position() const {
        const std::lock_guard<std::mutex> lock(mutex_);
        return n_gone_ + lines_.size();
    }

    std::string last_errors(std::uint64_t since) const {
        const std::lock_guard<std::mutex> lock(mutex_);
        std::string joined;
        for (std::size_t i = since > n_gone_ ? since - n_gone_ : 0; i < lines_.size(); ++i) {
            const LogLine& line = lines_[i];
            if (line.level != GGML_LOG_LEVEL_ERROR || line.text.empty()) continue;
            if (!joined.empty()) joined += "; ";
            joined += line.text;
        }
        return joined;
    }

  private:
    mutable std::mutex mutex_;
    std::deque<LogLine> lines_;
    std::uint64_t n_gone_ = 0;  // lines that were in the queue before those in it
    bool open_ = false;
};

LogQueue& log_queue() {
    // Never destroyed: llama.cpp may log while the process's statics are torn down.
    static auto* queue = new LogQueue;
    return *queue;
}

std::atomic<int> min_level{GGML_LOG_LEVEL_INFO};

thread_local const std::function<void()>* on_buffer = nullptr;

void on_log(ggml_log_level level, const char* text, void*) {
    if (on_buffer != nullptr && std::strstr(text, "buffer size") != nullptr) (*on_buffer)();
    if (level == GGML_LOG_LEVEL_CONT || level >= min_level.load(std::memory_order_relaxed))
        log_queue().add(level, text);
}

thread_local int n_guards = 0;

// ggml ends the process when this returns.
void on_abort(const char* message) {
    if (n_guards > 0) throw std::runtime_error(message);
    std::fputs(message, stderr);
    std::fputc('\n', stderr);
}

}  // namespace

AssertionGuard::AssertionGuard() { ++n_guards; }

AssertionGuard::~AssertionGuard() { --n_guards; }

OnBuffer::OnBuffer(std::function<void()> work) : work_(std::move(work)) { on_buffer = &work_; }

OnBuffer::~OnBuffer() { on_buffer = nullptr; }

void init_backend() {
    llama_log_set(on_log, nullptr);
    ggml_set_abort_callback(on_abort);
    static std::once_flag once;
    std::call_once(once, [] {
        ggml_backend_load_all();
        llama_backend_init();
    });
}

void set_min_log_level(int level) { min_level.store(level, std::memory_order_relaxed); }

std::string version() { return llama_version(); }

std::vector<LogLine> drain_log() { return log_queue().drain(); }

std::uint64_t log_position() { return log_queue().position(); }

std::string last_errors(std::uint64_t since) { return log_queue().last_errors(since); }

std::vector<Device> devices() {
    init_backend();
    std::vector<Device> all;
    for (std::size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        ggml_backend_dev_t device = ggml_backend_dev_get(i);
        const auto type = ggml_backend_dev_type(device);
        std::size_t free_bytes = 0;
        std::size_t total_bytes = 0;
        ggml_backend_dev_memory(device, &free_bytes, &total_bytes);
        all.push_back({ggml_backend_dev_name(device), ggml_backend_dev_description(device),
                       type == GGML_BACKEND_DEVICE_TYPE_GPU || type == GGML_BACKEND_DEVICE_TYPE_IGPU,
                       free_bytes, total_bytes});
    }
    return all;
}

std::size_t max_devices() { return llama_max_devices(); }

}  // namespace colm::llama
