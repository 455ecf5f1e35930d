// Runs a piece of llama.cpp that recurses as deep as its input is long.
#pragma once

#include <cstddef>
#include <functional>

namespace colm::llama {

// Runs `work` where it has at least `bytes` of stack, and passes on what it throws. Tokenizers that split
// text with std::regex recurse once per character, and the grammar parser once per nested group or rule; on
// an ordinary stack a long input would end the process. Small requests run in place. Throws std::bad_alloc
// where no such stack can be had.
void with_stack(std::size_t bytes, const std::function<void()>& work);

}  // namespace colm::llama
