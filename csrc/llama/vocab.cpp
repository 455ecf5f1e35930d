#include "llama/vocab.h"

#include <llama.h>

#include <algorithm>
#include <exception>
#include <limits>
#include <new>
#include <utility>

#include "colm/error.h"
#include "llama/backend.h"
#include "llama/large_stack.h"

namespace colm::llama {
namespace {

// What std::regex takes for a character of one match, with room to spare.
constexpr std::size_t kStackPerByte = 2048;
// Tokens that llama.cpp finds in a text before it tokenizes the rest.
constexpr int kSpecial = LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_USER_DEFINED | LLAMA_TOKEN_ATTR_UNKNOWN;

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

std::string metadata(const llama_model* model, const char* key) {
    char value[64];
    return llama_model_meta_val_str(model, key, value, sizeof value) < 0 ? std::string() : value;
}

bool is_control(const llama_vocab* vocab, Token token) {
    return (llama_vocab_get_attr(vocab, token) & LLAMA_TOKEN_ATTR_CONTROL) != 0;
}

// Where a file names no BOS or EOS, llama.cpp takes one by its number (11 in a BPE vocabulary), which is an
// ordinary token there.
bool is_guessed(const llama_model* model, const llama_vocab* vocab, const char* key, Token token) {
    return token != LLAMA_TOKEN_NULL && metadata(model, key) != std::to_string(token) &&
           !is_control(vocab, token);
}

std::vector<Token> tokenize_once(const llama_vocab* vocab, const std::string& text, bool add_bos,
                                 bool parse_special) {
    const auto length = static_cast<std::int32_t>(text.size());
    std::vector<Token> tokens(text.size() + 2);
    std::int32_t n = 0;
    with_stack(text.size() * kStackPerByte, [&] {
        const AssertionGuard guard;
        n = llama_tokenize(vocab, text.data(), length, tokens.data(), length + 2, add_bos, parse_special);
        if (n >= 0 || n == std::numeric_limits<std::int32_t>::min()) return;
        tokens.resize(static_cast<std::size_t>(-n));
        n = llama_tokenize(vocab, text.data(), length, tokens.data(), -n, add_bos, parse_special);
    });
    if (n < 0) throw TokenizeError("the text has too many tokens to count");
    tokens.resize(static_cast<std::size_t>(n));
    // llama.cpp adds BOS and EOS together.
    const auto type = llama_vocab_type(vocab);
    const bool adds =
        type == LLAMA_VOCAB_TYPE_SPM || type == LLAMA_VOCAB_TYPE_BPE || type == LLAMA_VOCAB_TYPE_UGM;
    if (add_bos && adds && llama_vocab_get_add_eos(vocab)) tokens.pop_back();
    return tokens;
}

// The first character that has no tokens, for a message.
std::string untokenizable(const llama_vocab* vocab, const std::string& text) {
    const auto fails = [vocab](const std::string& part) {
        try {
            tokenize_once(vocab, part, false, false);
            return false;
        } catch (const std::exception&) {
            return true;
        }
    };
    if (fails(" ")) return "a space";  // it may stand before every text
    for (std::size_t i = 0; i < text.size();) {
        std::size_t n = 1;
        while (i + n < text.size() && (static_cast<unsigned char>(text[i + n]) & 0xC0U) == 0x80U) ++n;
        const std::string character = text.substr(i, n);
        if (fails(character)) return "\"" + character + "\"";
        i += n;
    }
    return "a part of it";
}

}  // namespace

Vocabulary read_vocabulary(const llama_model* model, const std::string& path) {
    const llama_vocab* vocab = llama_model_get_vocab(model);
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
    if (is_guessed(model, vocab, "tokenizer.ggml.bos_token_id", v.bos)) {
        v.bos = kNoToken;
        v.add_bos = false;
    }
    if (is_guessed(model, vocab, "tokenizer.ggml.eos_token_id", v.eos)) {
        v.eog.erase(std::remove(v.eog.begin(), v.eog.end(), v.eos), v.eog.end());
        v.eos = kNoToken;
    }
    v.space_prefix =
        type == LLAMA_VOCAB_TYPE_SPM && metadata(model, "tokenizer.ggml.add_space_prefix") != "false";
    return v;
}

std::vector<Token> tokenize(const llama_vocab* vocab, const std::string& text, bool add_bos,
                            bool parse_special) {
    // A token stands for a byte at least; two more for BOS and EOS.
    if (text.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()) - 2)
        throw TokenizeError("the text has " + std::to_string(text.size()) +
                            " bytes; at most 2 GiB can be tokenized");
    try {
        return tokenize_once(vocab, text, add_bos, parse_special);
    } catch (const Error&) {
        throw;
    } catch (const std::bad_alloc&) {
        throw;
    } catch (const std::exception& error) {
        throw TokenizeError("the model's vocabulary has no token for " + untokenizable(vocab, text) +
                            " and none for its bytes (llama.cpp: " + error.what() +
                            "); leave it out, or convert the model again");
    }
}

Token control_token(const llama_vocab* vocab, const std::string& text) {
    try {
        const std::vector<Token> tokens = tokenize(vocab, text, false, true);
        const bool alone = tokens.size() == 1 && is_control(vocab, tokens[0]);
        return alone && piece(vocab, tokens[0], true) == text ? tokens[0] : kNoToken;
    } catch (const TokenizeError&) {
        return kNoToken;  // a text that this vocabulary cannot write
    }
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
    try {
        const std::vector<Token> tokens = tokenize(vocab_, text, false, true);
        return tokens.size() == 1 ? tokens[0] : kNoToken;
    } catch (const TokenizeError&) {
        return kNoToken;  // a text that this vocabulary cannot write
    }
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

std::string pieces(const llama_vocab* vocab, const std::vector<Token>& tokens, bool special,
                   bool space_prefix) {
    std::string bytes;
    bool behind_special = false;
    for (const Token token : tokens) {
        const std::string text = piece(vocab, token, special);
        const bool cut = space_prefix && behind_special && !text.empty() && text.front() == ' ';
        bytes.append(text, cut ? 1 : 0, std::string::npos);
        behind_special = (llama_vocab_get_attr(vocab, token) & kSpecial) != 0;
    }
    return bytes;
}

}  // namespace colm::llama
