// llama.cpp's process-wide state: initialisation, version, devices, and its log.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace colm::llama {

// Initialises llama.cpp once and takes over its log. Called before every load, because whoever else uses
// llama.cpp in this process may have set another log callback since.
void init_backend();

// While one lives, an assertion of llama.cpp on this thread throws std::runtime_error instead of ending the
// process. The last line of defence behind the checks of options and files: llama.cpp unwinds, and what it
// was building is lost or leaked, but the caller gets an error. Assertions on ggml's worker threads still end
// the process; LlamaModel::warm_up() meets them in the caller's thread before there are any.
class AssertionGuard {
  public:
    AssertionGuard();
    ~AssertionGuard();
    AssertionGuard(const AssertionGuard&) = delete;
    AssertionGuard& operator=(const AssertionGuard&) = delete;
};

// While one lives, `work` is done whenever llama.cpp logs the size of a buffer on this thread: it does so
// when the buffer exists, and before it clears a KV cache.
class OnBuffer {
  public:
    explicit OnBuffer(std::function<void()> work);
    ~OnBuffer();
    OnBuffer(const OnBuffer&) = delete;
    OnBuffer& operator=(const OnBuffer&) = delete;

  private:
    std::function<void()> work_;
};

// llama_version() of the library that this process loaded.
std::string version();

// Lines below this ggml_log_level are dropped. Default: info (2).
void set_min_log_level(int level);

struct LogLine {
    int level;  // ggml_log_level: 1 debug, 2 info, 3 warning, 4 error
    std::string text;
};

// Takes the log lines written since the last call. They wait in a queue rather than going straight to Python:
// a callback from llama.cpp's threads, or at interpreter exit, could not take the GIL safely. The queue keeps
// the newest 4096 lines.
std::vector<LogLine> drain_log();

// Where the queue stands: a later last_errors() then tells only of what was logged since.
std::uint64_t log_position();

// The error lines in the queue from a position on, joined: why a call failed, in llama.cpp's words.
std::string last_errors(std::uint64_t since = 0);

struct Device {
    std::string name;
    std::string description;
    bool gpu;
    std::uint64_t free_bytes;
    std::uint64_t total_bytes;
};

std::vector<Device> devices();

// Most devices that a tensor_split can name.
std::size_t max_devices();

}  // namespace colm::llama
