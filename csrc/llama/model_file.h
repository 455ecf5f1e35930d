// Opening model files: errors instead of null, and the vocabulary alone.
#pragma once

#include <llama-cpp.h>

#include <cstdint>
#include <string>
#include <vector>

#include "colm/vocabulary.h"

namespace colm::llama {

// llama_model_load_from_file with a LoadError in place of null.
llama_model_ptr open_model(const std::string& path, const llama_model_params& params);

// A file's vocabulary alone, with llama.cpp's tokenizer; the weights are not read.
class VocabularyFile {
  public:
    // Throws LoadError.
    explicit VocabularyFile(std::string path);

    const std::string& path() const { return path_; }
    const Vocabulary& vocabulary() const { return vocabulary_; }
    // The chat template in the file; "" where there is none.
    std::string chat_template() const;
    // See llama::tokenize(); with `add_special` the text begins with BOS where the model asks for it.
    std::vector<Token> tokenize(const std::string& text, bool add_special, bool parse_special) const;

  private:
    std::string path_;
    llama_model_ptr model_;
    Vocabulary vocabulary_;
};

// The chat template in a model's file; "" where there is none.
std::string chat_template(const llama_model* model);

// The errors that llama.cpp has logged since a log_position(), as " (llama.cpp: ...)"; "" where there are
// none.
std::string llama_cpp_says(std::uint64_t since);

}  // namespace colm::llama
