// The tokenizer of a loaded model.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
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

// What a grammar sees of a vocabulary.
class TokenTexts {
  public:
    // `ends`: the tokens that end a text, ascending.
    TokenTexts(const llama_vocab* vocab, std::vector<Token> ends);

    std::size_t size() const { return offsets_.size() - 1; }
    // As piece() gives it, without special tokens: what the token adds to the text that the user reads.
    std::string_view operator[](Token token) const {
        const auto i = static_cast<std::size_t>(token);
        return std::string_view(bytes_).substr(offsets_[i], offsets_[i + 1] - offsets_[i]);
    }
    bool ends_text(Token token) const;
    // The token that is written so, special ones included; kNoToken where there is none.
    Token find(const std::string& text) const;

  private:
    const llama_vocab* vocab_;
    std::vector<Token> ends_;
    std::string bytes_;
    std::vector<std::size_t> offsets_;
};

// The bytes that a token stands for; "" for control tokens unless `special`.
std::string piece(const llama_vocab* vocab, Token token, bool special);

// The bytes of a text's tokens. `space_prefix`: the tokenizer puts a space before a text and behind a control
// token; behind a control token it is left out here, so that what begins with BOS comes back as it was.
std::string pieces(const llama_vocab* vocab, const std::vector<Token>& tokens, bool special,
                   bool space_prefix);

}  // namespace colm::llama
