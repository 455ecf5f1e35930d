// Opening model files: errors instead of null, and the vocabulary alone.
#pragma once

#include <string>

#include "colm/vocabulary.h"
#include "llama/handles.h"

namespace colm::llama {

// llama_model_load_from_file with a LoadError in place of null.
ModelPtr open_model(const std::string& path, const llama_model_params& params);

// The vocabulary alone; the weights are not read.
Vocabulary load_vocabulary(const std::string& path);

// The errors that llama.cpp has just logged, as " (llama.cpp: ...)"; "" where there are none.
std::string llama_cpp_says();

}  // namespace colm::llama
