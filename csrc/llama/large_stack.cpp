#include "llama/large_stack.h"

#include <algorithm>
#include <exception>
#include <new>

#ifdef _WIN32
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
#else
#include <pthread.h>
#endif

namespace colm::llama {
namespace {

// Less than the smallest default stack of a thread (512 KiB on macOS).
constexpr std::size_t kInPlace = 128 * 1024;
// Address space only: pages are taken as the stack grows.
constexpr std::size_t kMost = std::size_t{8} << 30;

struct Job {
    const std::function<void()>& work;
    std::exception_ptr thrown;
};

void run(Job& job) {
    try {
        job.work();
    } catch (...) {
        job.thrown = std::current_exception();
    }
}

// Runs the job on a thread with so much stack. False where there is none to be had.
#ifdef _WIN32

DWORD WINAPI begin(void* job) {
    run(*static_cast<Job*>(job));
    return 0;
}

bool run_on_thread(std::size_t bytes, Job& job) {
    const HANDLE thread =
        CreateThread(nullptr, bytes, begin, &job, STACK_SIZE_PARAM_IS_A_RESERVATION, nullptr);
    if (thread == nullptr) return false;
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
    return true;
}

#else

void* begin(void* job) {
    run(*static_cast<Job*>(job));
    return nullptr;
}

bool run_on_thread(std::size_t bytes, Job& job) {
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes) != 0) return false;
    pthread_t thread;
    const bool started = pthread_attr_setstacksize(&attributes, bytes) == 0 &&
                         pthread_create(&thread, &attributes, begin, &job) == 0;
    pthread_attr_destroy(&attributes);
    if (started) pthread_join(thread, nullptr);
    return started;
}

#endif

}  // namespace

void with_stack(std::size_t bytes, const std::function<void()>& work) {
    if (bytes <= kInPlace) return work();
    constexpr std::size_t kPage = 64 * 1024;
    Job job{work, nullptr};
    if (!run_on_thread((std::min(bytes, kMost) + kPage - 1) / kPage * kPage, job)) throw std::bad_alloc();
    if (job.thrown) std::rethrow_exception(job.thrown);
}

}  // namespace colm::llama
