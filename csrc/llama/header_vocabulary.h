// A vocabulary as a file's header says it, for comparing many files: llama.cpp's tokenizer takes a second to
// make.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "colm/vocabulary.h"

namespace colm::llama {

struct HeaderVocabulary {
    Vocabulary vocabulary;  // without eog and eos; add_bos only where says_bos
    std::string tokenizer;  // tokenizer.ggml.model
    std::string pre;        // tokenizer.ggml.pre
    bool says_bos = false;  // whether the header says that BOS is added or not. Otherwise llama.cpp decides
};

// Reads the header alone. Throws LoadError where it is damaged, ends too early, or has no vocabulary.
HeaderVocabulary read_header_vocabulary(const std::string& path);

// What shared_vocabulary() says of both. No value where the headers do not say whether both add the same BOS.
std::optional<std::size_t> shared_by_header(const HeaderVocabulary& base, const HeaderVocabulary& assistant);

}  // namespace colm::llama
