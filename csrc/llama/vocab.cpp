#include "llama/vocab.h"

#include <llama.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "colm/error.h"
#include "llama/large_stack.h"

namespace colm::llama {
namespace {

// What std::regex takes for a character of one match, with room to spare.
constexpr std::size_t kStackPerByte = 2048;

std::string type_name(enum llama_vocab_type type) {
    switch (type) {
        case LLAMA_VOCAB_TYPE_NONE:
            return "none";
        case LLAMA_VOCAB_TYPE_SPM:
            return "SPM";
        case LLAMA_VOCAB_TYPE_BPE:
            return "BPE";
        case LLAMA_VOCAB_TYPE_WPM:
            return "WPM";
        case LLAMA_VOCAB_TYPE_UGM:
            return "UGM";
        case LLAMA_VOCAB_TYPE_RWKV:
            return "RWKV";
        default:
            return "type " + std::to_string(static_cast<int>(type));
    }
}

}  // namespace

Vocabulary read_vocabulary(const llama_vocab* vocab, const std::string& path) {
    Vocabulary v;
    const auto type = llama_vocab_type(vocab);
    if (type == LLAMA_VOCAB_TYPE_NONE)
        throw LoadError(path + " has no tokenizer; both models need one, with the same vocabulary");
    v.type = type_name(type);
    const std::int32_t n = llama_vocab_n_tokens(vocab);
    v.texts.reserve(static_cast<std::size_t>(n));
    v.unused.reserve(static_cast<std::size_t>(n));
    for (Token token = 0; token < n; ++token) {
        v.texts.emplace_back(llama_vocab_get_text(vocab, token));
        v.unused.push_back((llama_vocab_get_attr(vocab, token) & LLAMA_TOKEN_ATTR_UNUSED) != 0);
        if (llama_vocab_is_eog(vocab, token)) v.eog.push_back(token);
    }
    v.bos = llama_vocab_bos(vocab);
    v.eos = llama_vocab_eos(vocab);
    v.add_bos = llama_vocab_get_add_bos(vocab);
    v.add_eos = llama_vocab_get_add_eos(vocab);
    // llama.cpp aborts when it tokenizes for such a model.
    if ((v.add_bos && v.bos == LLAMA_TOKEN_NULL) || (v.add_eos && v.eos == LLAMA_TOKEN_NULL))
        throw LoadError(path + " asks for a BOS or EOS token around the text and names none");
    return v;
}

std::vector<Token> tokenize(const llama_vocab* vocab, const std::string& text, bool add_special,
                            bool parse_special) {
    // A token stands for a byte at least; two more for BOS and EOS.
    if (text.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()) - 2)
        throw TokenizeError("the text has " + std::to_string(text.size()) +
                            " bytes; at most 2 GiB can be tokenized");
    const auto length = static_cast<std::int32_t>(text.size());
    std::vector<Token> tokens(text.size() + 2);
    std::int32_t n = 0;
    with_stack(text.size() * kStackPerByte, [&] {
        n = llama_tokenize(vocab, text.data(), length, tokens.data(), length + 2, add_special, parse_special);
        if (n >= 0 || n == std::numeric_limits<std::int32_t>::min()) return;
        tokens.resize(static_cast<std::size_t>(-n));
        n = llama_tokenize(vocab, text.data(), length, tokens.data(), -n, add_special, parse_special);
    });
    if (n < 0) throw TokenizeError("the text has too many tokens to count");
    tokens.resize(static_cast<std::size_t>(n));
    return tokens;
}

TokenTexts::TokenTexts(const llama_vocab* vocab, std::vector<Token> ends)
    : vocab_(vocab), ends_(std::move(ends)), offsets_{0} {
    const std::int32_t n = llama_vocab_n_tokens(vocab);
    for (Token token = 0; token < n; ++token) {
        bytes_ += piece(vocab, token, false);
        offsets_.push_back(bytes_.size());
    }
}

bool TokenTexts::ends_text(Token token) const {
    return std::binary_search(ends_.begin(), ends_.end(), token);
}

Token TokenTexts::find(const std::string& text) const {
    const std::vector<Token> tokens = tokenize(vocab_, text, false, true);
    return tokens.size() == 1 ? tokens[0] : kNoToken;
}

std::string piece(const llama_vocab* vocab, Token token, bool special) {
    std::string bytes(64, '\0');
    std::int32_t n =
        llama_token_to_piece(vocab, token, bytes.data(), static_cast<std::int32_t>(bytes.size()), 0, special);
    if (n < 0) {
        bytes.resize(static_cast<std::size_t>(-n));
        n = llama_token_to_piece(vocab, token, bytes.data(), static_cast<std::int32_t>(bytes.size()), 0,
                                 special);
    }
    bytes.resize(static_cast<std::size_t>(n));
    return bytes;
}

}  // namespace colm::llama
