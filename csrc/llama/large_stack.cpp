#include "llama/large_stack.h"

#include <algorithm>
#include <exception>
#include <new>

#ifndef _WIN32
#include <pthread.h>
#endif

namespace colm::llama {

#ifdef _WIN32

void with_stack(std::size_t, const std::function<void()>& work) { work(); }

#else

namespace {

// Less than the smallest default stack of a thread (512 KiB on macOS).
constexpr std::size_t kInPlace = 128 * 1024;
// Address space only: pages are taken as the stack grows.
constexpr std::size_t kMost = std::size_t{8} << 30;

struct Job {
    const std::function<void()>* work;
    std::exception_ptr thrown;
};

void* run(void* argument) {
    auto* job = static_cast<Job*>(argument);
    try {
        (*job->work)();
    } catch (...) {
        job->thrown = std::current_exception();
    }
    return nullptr;
}

}  // namespace

void with_stack(std::size_t bytes, const std::function<void()>& work) {
    if (bytes <= kInPlace) return work();
    constexpr std::size_t kPage = 64 * 1024;
    const std::size_t size = (std::min(bytes, kMost) + kPage - 1) / kPage * kPage;
    Job job{&work, nullptr};
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes) != 0) throw std::bad_alloc();
    pthread_t thread;
    const bool started = pthread_attr_setstacksize(&attributes, size) == 0 &&
                         pthread_create(&thread, &attributes, run, &job) == 0;
    pthread_attr_destroy(&attributes);
    if (!started) throw std::bad_alloc();
    pthread_join(thread, nullptr);
    if (job.thrown) std::rethrow_exception(job.thrown);
}

#endif

}  // namespace colm::llama
