// Opening model files: errors instead of null, and the vocabulary alone.
#pragma once

#include <llama-cpp.h>

#include <cstdint>
#include <string>

#include "colm/vocabulary.h"

namespace colm::llama {

// llama_model_load_from_file with a LoadError in place of null.
llama_model_ptr open_model(const std::string& path, const llama_model_params& params);

// The vocabulary alone; the weights are not read.
Vocabulary load_vocabulary(const std::string& path);

// The errors that llama.cpp has logged since a log_position(), as " (llama.cpp: ...)"; "" where there are
// none.
std::string llama_cpp_says(std::uint64_t since);

}  // namespace colm::llama
