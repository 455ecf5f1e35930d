// A model file before its weights are loaded: what llama.cpp would abort on or explain badly, and the
// vocabulary.
#pragma once

#include <string>

#include "colm/vocabulary.h"
#include "llama/gguf_file.h"
#include "llama/handles.h"

namespace colm::llama {

// Throws LoadError where the file is missing, damaged, cut short, or something other than a model.
void check_model_file(const std::string& path);

// llama_model_load_from_file with a LoadError in place of null.
ModelPtr open_model(const std::string& path, const llama_model_params& params);

// The vocabulary alone; the weights are not read.
Vocabulary load_vocabulary(const std::string& path);

// general.architecture; "" where it is missing.
std::string architecture_of(const GgufInfo& info);

// The errors that llama.cpp has just logged, as " (llama.cpp: ...)"; "" where there are none.
std::string llama_cpp_says();

}  // namespace colm::llama
