#include "llama/model_file.h"

#include <gguf.h>

#include <exception>
#include <unordered_set>

#include "colm/error.h"
#include "llama/backend.h"
#include "llama/vocab.h"

namespace colm::llama {

std::string llama_cpp_says() {
    const std::string why = last_errors();
    return why.empty() ? std::string() : " (llama.cpp: " + why + ")";
}

std::string architecture_of(const GgufInfo& info) {
    const auto found = info.metadata.find("general.architecture");
    const auto* name = found == info.metadata.end() ? nullptr : std::get_if<std::string>(&found->second);
    return name == nullptr ? std::string() : *name;
}

// What llama.cpp would abort on, or explain badly, is looked for before it sees the file.
void check_model_file(const std::string& path) {
    const GgufInfo info = inspect_gguf(path);
    const std::string architecture = architecture_of(info);
    if (architecture == "colm-head")
        throw LoadError(path + " is a deferral head, not a model; pass it as head=");
    const auto type = info.metadata.find("general.type");
    const auto* type_name = type == info.metadata.end() ? nullptr : std::get_if<std::string>(&type->second);
    if (type_name != nullptr && *type_name == "adapter")
        throw LoadError(path + " is a LoRA adapter, not a model; pass it as lora= beside the model");
    if (architecture.empty())
        throw LoadError(path + " is not a model: it lacks the key general.architecture");
    if (info.truncated)
        throw LoadError(path + " is cut short: it has " + std::to_string(info.file_bytes) + " of " +
                        std::to_string(info.expected_bytes) + " bytes; download it again");

    // llama.cpp asserts that no two tokens have one text.
    const GgufPtr gguf = open_gguf(path);
    const std::int64_t id = gguf_find_key(gguf.get(), "tokenizer.ggml.tokens");
    if (id < 0) return;
    if (gguf_get_kv_type(gguf.get(), id) != GGUF_TYPE_ARRAY ||
        gguf_get_arr_type(gguf.get(), id) != GGUF_TYPE_STRING)
        throw LoadError(path + ": the key tokenizer.ggml.tokens is not an array of strings");
    std::unordered_set<std::string> seen;
    const std::size_t n = gguf_get_arr_n(gguf.get(), id);
    seen.reserve(n);
    for (std::size_t i = 0; i < n; ++i) {
        const char* text = gguf_get_arr_str(gguf.get(), id, i);
        // Empty texts are renamed by llama.cpp.
        if (*text != '\0' && !seen.insert(text).second)
            throw LoadError(path + ": its vocabulary holds the text \"" + text + "\" twice, again at token " +
                            std::to_string(i) + "; the file is damaged");
    }
}

ModelPtr open_model(const std::string& path, const llama_model_params& params) {
    drain_log();  // so that the reason speaks of this load only
    ModelPtr model;
    try {
        model.reset(llama_model_load_from_file(path.c_str(), params));
    } catch (const std::exception& error) {
        throw LoadError(path + " cannot be loaded (llama.cpp: " + error.what() + ")");
    }
    if (!model) throw LoadError(path + " cannot be loaded" + llama_cpp_says());
    return model;
}

Vocabulary load_vocabulary(const std::string& path) {
    init_backend();
    check_model_file(path);
    llama_model_params params = llama_model_default_params();
    params.vocab_only = true;
    const ModelPtr model = open_model(path, params);
    return read_vocabulary(llama_model_get_vocab(model.get()), path);
}

}  // namespace colm::llama
