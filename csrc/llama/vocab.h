// The tokenizer of a loaded model.
#pragma once

#include <string>
#include <vector>

#include "colm/vocabulary.h"

struct llama_vocab;

namespace colm::llama {

// Copies the vocabulary out of llama.cpp. Throws LoadError for a model without a usable one.
Vocabulary read_vocabulary(const llama_vocab* vocab, const std::string& path);

// `text` must be UTF-8. `add_special`: add BOS/EOS as the model asks; `parse_special`: recognise control
// tokens. Throws TokenizeError for a text too long to count.
std::vector<Token> tokenize(const llama_vocab* vocab, const std::string& text, bool add_special,
                            bool parse_special);

// The bytes that a token stands for; "" for control tokens unless `special`.
std::string piece(const llama_vocab* vocab, Token token, bool special);

}  // namespace colm::llama
