// What llama.cpp asserts, rather than checks, about the files it is given: an assertion ends the process.
#pragma once

#include <cstdint>
#include <string>

#include "llama/gguf_file.h"

namespace colm::llama {

// Throws LoadError where the file is missing, damaged, cut short, something other than a model, or has
// metadata or tensors that llama.cpp would abort on. Gives the number of positions that the model was made
// for and cannot go beyond; 0 where it has no such limit.
std::int64_t check_model_file(const std::string& path);

// The same for a LoRA adapter.
void check_adapter_file(const std::string& path);

// general.architecture; "" where it is missing or no text.
std::string architecture_of(const GgufInfo& info);

}  // namespace colm::llama
