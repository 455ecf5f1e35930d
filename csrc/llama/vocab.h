// The tokenizer of a loaded model.
#pragma once

#include <string>
#include <vector>

#include "colm/vocabulary.h"

struct llama_model;
struct llama_vocab;

namespace colm::llama {

// Copies the vocabulary out of llama.cpp. Throws LoadError for a model without a usable one.
Vocabulary read_vocabulary(const llama_model* model, const std::string& path);

// `text` must be UTF-8. `add_bos`: put the model's BOS before it; `parse_special`: recognise control tokens.
// No EOS is added, also where the model asks for one: a text is written on behind its tokens. Throws
// TokenizeError for a text that is too long to count or has no tokens in this vocabulary.
std::vector<Token> tokenize(const llama_vocab* vocab, const std::string& text, bool add_bos,
                            bool parse_special);

// Whether `text` is the text of a control token, which writes nothing itself; kNoToken if not.
Token control_token(const llama_vocab* vocab, const std::string& text);

// The bytes that a token stands for; "" for control tokens unless `special`.
std::string piece(const llama_vocab* vocab, Token token, bool special);

// The bytes of a text's tokens. `space_prefix`: the tokenizer puts a space before a text and behind a control
// token; behind a control token it is left out here, so that what begins with BOS comes back as it was.
std::string pieces(const llama_vocab* vocab, const std::vector<Token>& tokens, bool special,
                   bool space_prefix);

}  // namespace colm::llama
