#include "llama/header_vocabulary.h"

#include <gguf.h>

#include <cstdint>
#include <map>
#include <utility>

#include "colm/error.h"
#include "llama/gguf_file.h"

namespace colm::llama {
namespace {

constexpr std::int32_t kControl = 3;  // LLAMA_TOKEN_TYPE_CONTROL
constexpr std::int32_t kUnused = 5;   // LLAMA_TOKEN_TYPE_UNUSED

std::string text_of(const gguf_context* gguf, const char* key) {
    const std::int64_t id = gguf_find_key(gguf, key);
    return id >= 0 && gguf_get_kv_type(gguf, id) == GGUF_TYPE_STRING ? gguf_get_val_str(gguf, id) : "";
}

// llama.cpp's type of the tokenizer; its name in the file where that is no common one.
std::string type_of(const std::string& tokenizer) {
    static const std::map<std::string, std::string> types{{"llama", "SPM"}, {"bert", "WPM"},
                                                          {"gpt2", "BPE"},  {"gemma4", "BPE"},
                                                          {"t5", "UGM"},    {"rwkv", "RWKV"}};
    const auto known = types.find(tokenizer);
    return known == types.end() ? tokenizer : known->second;
}

bool is_array(const gguf_context* gguf, std::int64_t id, gguf_type element) {
    return id >= 0 && gguf_get_kv_type(gguf, id) == GGUF_TYPE_ARRAY && gguf_get_arr_type(gguf, id) == element;
}

}  // namespace

HeaderVocabulary read_header_vocabulary(const std::string& path) {
    const GgufPtr file = open_gguf(path);
    const gguf_context* gguf = file.get();
    HeaderVocabulary found;
    found.tokenizer = text_of(gguf, "tokenizer.ggml.model");
    found.pre = text_of(gguf, "tokenizer.ggml.pre");
    const std::int64_t tokens = gguf_find_key(gguf, "tokenizer.ggml.tokens");
    if (found.tokenizer.empty() || !is_array(gguf, tokens, GGUF_TYPE_STRING))
        throw LoadError(path + " has no tokenizer; both models need one, with the same vocabulary");
    Vocabulary& vocabulary = found.vocabulary;
    vocabulary.type = type_of(found.tokenizer);
    const std::size_t n = gguf_get_arr_n(gguf, tokens);
    vocabulary.texts.reserve(n);
    for (std::size_t i = 0; i < n; ++i) {
        std::string text = gguf_get_arr_str(gguf, tokens, i);
        if (text.empty()) text = "[EMPTY_" + std::to_string(i) + "]";  // as llama.cpp does
        vocabulary.texts.push_back(std::move(text));
    }
    vocabulary.unused.resize(n);
    const std::int64_t types = gguf_find_key(gguf, "tokenizer.ggml.token_type");
    if (is_array(gguf, types, GGUF_TYPE_INT32) && gguf_get_arr_n(gguf, types) == n) {
        const auto* type = static_cast<const std::int32_t*>(gguf_get_arr_data(gguf, types));
        for (std::size_t i = 0; i < n; ++i) {
            // llama.cpp takes a control token for unused where its text says so.
            const bool named = type[i] == kControl && vocabulary.texts[i].find("unused") != std::string::npos;
            vocabulary.unused[i] = named || type[i] == kUnused ? 1 : 0;
        }
    }
    const std::int64_t bos = gguf_find_key(gguf, "tokenizer.ggml.bos_token_id");
    if (bos >= 0 && gguf_get_kv_type(gguf, bos) == GGUF_TYPE_UINT32)
        vocabulary.bos = static_cast<Token>(gguf_get_val_u32(gguf, bos));
    const std::int64_t adds = gguf_find_key(gguf, "tokenizer.ggml.add_bos_token");
    // llama.cpp takes Gemma 4 for one that adds BOS, whatever its file says, and guesses a BOS where none is
    // named.
    found.says_bos = adds >= 0 && gguf_get_kv_type(gguf, adds) == GGUF_TYPE_BOOL &&
                     found.tokenizer != "gemma4" &&
                     (vocabulary.bos != kNoToken || !gguf_get_val_bool(gguf, adds));
    vocabulary.add_bos = found.says_bos && gguf_get_val_bool(gguf, adds);
    return found;
}

std::optional<std::size_t> shared_by_header(const HeaderVocabulary& base, const HeaderVocabulary& assistant) {
    if (base.says_bos && assistant.says_bos) return shared_vocabulary(base.vocabulary, assistant.vocabulary);
    // llama.cpp decides by the tokenizer, so two of one kind are treated alike.
    Vocabulary one = base.vocabulary, other = assistant.vocabulary;
    one.add_bos = other.add_bos = false;
    const std::size_t n_shared = shared_vocabulary(one, other);
    const bool alike = !base.says_bos && !assistant.says_bos && base.tokenizer == assistant.tokenizer &&
                       base.pre == assistant.pre && one.bos == other.bos;
    return alike ? std::optional<std::size_t>(n_shared) : std::nullopt;
}

}  // namespace colm::llama
