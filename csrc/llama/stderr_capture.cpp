#include "llama/stderr_capture.h"

#include <cstdio>
#include <mutex>

#ifdef _WIN32
#include <io.h>
#else
#include <unistd.h>
#endif

namespace colm::llama {
namespace {

#ifdef _WIN32
int duplicate(int fd) { return _dup(fd); }
int replace(int from, int to) { return _dup2(from, to); }
void close_fd(int fd) { _close(fd); }
int number(FILE* file) { return _fileno(file); }
#else
int duplicate(int fd) { return dup(fd); }
int replace(int from, int to) { return dup2(from, to); }
void close_fd(int fd) { close(fd); }
int number(FILE* file) { return fileno(file); }
#endif

// Redirects stderr for its lifetime. Does nothing where the system refuses (no stderr, no room for a file).
class Redirect {
  public:
    Redirect() : file_(std::tmpfile()) {
        std::fflush(stderr);
        if (file_ == nullptr) return;
        saved_ = duplicate(number(stderr));
        if (saved_ >= 0 && replace(number(file_), number(stderr)) < 0) restore();
    }
    ~Redirect() {
        restore();
        if (file_ != nullptr) std::fclose(file_);
    }
    Redirect(const Redirect&) = delete;
    Redirect& operator=(const Redirect&) = delete;

    // Ends the redirection and returns what was written.
    std::string finish() {
        restore();
        std::string text;
        if (file_ == nullptr) return text;
        std::rewind(file_);
        char buffer[4096];
        for (std::size_t n = 0; (n = std::fread(buffer, 1, sizeof buffer, file_)) > 0;)
            text.append(buffer, n);
        return text;
    }

  private:
    void restore() {
        if (saved_ < 0) return;
        std::fflush(stderr);
        replace(saved_, number(stderr));
        close_fd(saved_);
        saved_ = -1;
    }

    FILE* file_;
    int saved_ = -1;
};

}  // namespace

std::string capture_stderr(const std::function<bool()>& work) {
    static std::mutex mutex;
    const std::lock_guard<std::mutex> lock(mutex);
    Redirect redirect;
    const bool pass_on = work();
    const std::string text = redirect.finish();
    if (pass_on && !text.empty()) std::fputs(text.c_str(), stderr);
    return text;
}

}  // namespace colm::llama
