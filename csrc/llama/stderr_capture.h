// What a piece of llama.cpp prints to stderr rather than to its log.
#pragma once

#include <functional>
#include <string>

namespace colm::llama {

// Runs `work` and returns what was written to the process's stderr meanwhile (by other threads too). Where
// `work` returns true, that is passed on to stderr after all, since it was not ours to take. One capture at a
// time.
std::string capture_stderr(const std::function<bool()>& work);

}  // namespace colm::llama
