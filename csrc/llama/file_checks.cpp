#include "llama/file_checks.h"

#include <ggml.h>
#include <gguf.h>

#include <cmath>
#include <optional>
#include <unordered_set>

#include "colm/error.h"

namespace colm::llama {
namespace {

constexpr std::int64_t kMaxLayers = 512;   // LLAMA_MAX_LAYERS
constexpr std::int64_t kMaxExperts = 512;  // LLAMA_MAX_EXPERTS

// The values of one file, by key, with messages that name it.
class Metadata {
  public:
    Metadata(const GgufInfo& info, const std::string& path) : info_(info), path_(path) {}

    std::optional<std::string> text(const std::string& key) const {
        const auto found = info_.metadata.find(key);
        if (found == info_.metadata.end()) return std::nullopt;
        const auto* value = std::get_if<std::string>(&found->second);
        if (value == nullptr) refuse(key, "is not a text");
        return *value;
    }

    // Nothing where the key is absent or an array.
    std::optional<std::int64_t> integer(const std::string& key) const {
        const auto found = info_.metadata.find(key);
        if (found == info_.metadata.end()) return std::nullopt;
        const auto* value = std::get_if<std::int64_t>(&found->second);
        if (value == nullptr) refuse(key, "is not a whole number");
        return *value;
    }

    std::optional<std::int64_t> integer(const std::string& key, std::int64_t low, std::int64_t high) const {
        const auto value = integer(key);
        if (value && (*value < low || *value > high))
            refuse(key, "is " + std::to_string(*value) + "; it must be from " + std::to_string(low) + " to " +
                            std::to_string(high));
        return value;
    }

    void require_finite() const {
        for (const auto& [key, value] : info_.metadata) {
            const auto* real = std::get_if<double>(&value);
            if (real == nullptr || key.compare(0, 8, "general.") == 0) continue;
            const bool epsilon = key.find("epsilon") != std::string::npos;
            if (!std::isfinite(*real) || (epsilon && *real < 0.0)) refuse(key, "is " + std::to_string(*real));
        }
    }

    [[noreturn]] void refuse(const std::string& key, const std::string& what) const {
        throw LoadError(path_ + ": the key " + key + " " + what + "; the file is damaged");
    }

  private:
    const GgufInfo& info_;
    const std::string& path_;
};

void check_hyperparameters(const GgufInfo& info, const std::string& path) {
    const Metadata metadata(info, path);
    const std::string arch = architecture_of(info) + ".";
    metadata.require_finite();
    metadata.integer("general.alignment", 8, 1 << 20);
    const auto n_layer = metadata.integer(arch + "block_count", 1, kMaxLayers);
    metadata.integer(arch + "nextn_predict_layers", 0, n_layer.value_or(1) - 1);
    for (const char* key : {"embedding_length", "feed_forward_length", "attention.head_count",
                            "attention.head_count_kv", "attention.key_length", "attention.value_length"})
        metadata.integer(arch + key, 0, (std::int64_t{1} << 32) - 1);
    const std::int64_t n_expert = metadata.integer(arch + "expert_count", 0, kMaxExperts).value_or(0);
    metadata.integer(arch + "expert_used_count", n_expert > 0 ? 1 : 0, n_expert);
    if (n_expert > 0 && !metadata.integer(arch + "expert_used_count"))
        throw LoadError(path + " has experts and lacks the key " + arch +
                        "expert_used_count; the file is damaged");
    const std::int64_t n_groups = metadata.integer(arch + "expert_group_count", 0, n_expert).value_or(0);
    if (n_groups > 0 && n_expert % n_groups != 0)
        metadata.refuse(arch + "expert_group_count", "is " + std::to_string(n_groups) +
                                                         ", which does not divide " +
                                                         std::to_string(n_expert) + " experts");
    const auto n_rot = metadata.integer(arch + "rope.dimension_count", 2, 1 << 16);
    if (n_rot && *n_rot % 2 != 0)
        metadata.refuse(arch + "rope.dimension_count", "is " + std::to_string(*n_rot) + "; it must be even");
    const auto scaling = metadata.text(arch + "rope.scaling.type");
    if (scaling && *scaling != "none" && *scaling != "linear" && *scaling != "yarn" && *scaling != "longrope")
        metadata.refuse(arch + "rope.scaling.type", "is \"" + *scaling + "\", which llama.cpp does not know");
}

// Norms, biases and state-space parameters, which llama.cpp's operations take as float32 only. Converters
// write every one-dimensional tensor so.
bool must_be_f32(const std::string& name, const std::int64_t* shape) {
    if (shape[1] == 1 && shape[2] == 1) return true;
    for (const char* part : {"norm.weight", ".ssm_a", ".ssm_d", ".ssm_conv1d."})
        if (name.find(part) != std::string::npos) return true;
    return false;
}

// Integer and float64 tensors are in the format, but no operation takes them as weights.
void check_tensor_types(const gguf_context* gguf, const std::string& path, bool of_model) {
    for (std::int64_t id = 0; id < gguf_get_n_tensors(gguf); ++id) {
        const std::string name = gguf_get_tensor_name(gguf, id);
        const ggml_type type = gguf_get_tensor_type(gguf, id);
        const bool real = type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16;
        if ((of_model && must_be_f32(name, gguf_get_tensor_ne(gguf, id)) && type != GGML_TYPE_F32) ||
            (!real && !ggml_is_quantized(type)))
            throw LoadError(path + ": the tensor " + name + " is of type " + ggml_type_name(type) +
                            ", which llama.cpp cannot compute with; convert the model again");
    }
}

// llama.cpp asserts that no two tokens have one text.
void check_tokens(const gguf_context* gguf, const std::string& path) {
    const std::int64_t id = gguf_find_key(gguf, "tokenizer.ggml.tokens");
    if (id < 0) return;
    if (gguf_get_kv_type(gguf, id) != GGUF_TYPE_ARRAY || gguf_get_arr_type(gguf, id) != GGUF_TYPE_STRING)
        throw LoadError(path + ": the key tokenizer.ggml.tokens is not an array of strings");
    std::unordered_set<std::string> seen;
    const std::size_t n = gguf_get_arr_n(gguf, id);
    seen.reserve(n);
    for (std::size_t i = 0; i < n; ++i) {
        std::string text = gguf_get_arr_str(gguf, id, i);
        if (text.empty()) text = "[EMPTY_" + std::to_string(i) + "]";  // as llama.cpp names it
        if (!seen.insert(text).second)
            throw LoadError(path + ": its vocabulary holds the text \"" + text + "\" twice, again at token " +
                            std::to_string(i) + "; the file is damaged");
    }
}

void check_complete(const GgufInfo& info, const std::string& path) {
    if (info.truncated)
        throw LoadError(path + " is cut short: it has " + std::to_string(info.file_bytes) + " of " +
                        std::to_string(info.expected_bytes) + " bytes; download it again");
}

// "" where the key is missing or no text.
std::string text_of(const GgufInfo& info, const char* key) {
    const auto found = info.metadata.find(key);
    const auto* text = found == info.metadata.end() ? nullptr : std::get_if<std::string>(&found->second);
    return text == nullptr ? std::string() : *text;
}

bool is_adapter(const GgufInfo& info) { return text_of(info, "general.type") == "adapter"; }

}  // namespace

std::string architecture_of(const GgufInfo& info) { return text_of(info, "general.architecture"); }

void check_model_file(const std::string& path) {
    const GgufInfo info = inspect_gguf(path);
    const std::string architecture = architecture_of(info);
    if (architecture == "colm-head")
        throw LoadError(path + " is a deferral head, not a model; pass it as head=");
    if (is_adapter(info))
        throw LoadError(path + " is a LoRA adapter, not a model; pass it as lora= beside the model");
    if (architecture.empty())
        throw LoadError(path + " is not a model: it lacks the key general.architecture");
    check_complete(info, path);
    check_hyperparameters(info, path);
    if (Metadata(info, path).text("tokenizer.ggml.model").value_or("") == "bert")
        throw LoadError(
            path + " has the tokenizer of an encoder (bert); decoder-only language models are supported");
    const GgufPtr gguf = open_gguf(path);
    check_tensor_types(gguf.get(), path, true);
    check_tokens(gguf.get(), path);
}

void check_adapter_file(const std::string& path) {
    const GgufInfo info = inspect_gguf(path);
    if (architecture_of(info) == "colm-head")
        throw LoadError(path + " is a deferral head, not a LoRA adapter; pass it as head=");
    if (!is_adapter(info))
        throw LoadError(path + " is not a LoRA adapter: its general.type is not \"adapter\"");
    check_complete(info, path);
    const Metadata metadata(info, path);
    if (metadata.text("adapter.type").value_or("") != "lora")
        throw LoadError(path + " is not a LoRA adapter: its adapter.type is not \"lora\"");
    const auto alpha = info.metadata.find("adapter.lora.alpha");
    if (alpha != info.metadata.end() && std::get_if<double>(&alpha->second) == nullptr)
        metadata.refuse("adapter.lora.alpha", "is not a float32");
    const GgufPtr gguf = open_gguf(path);
    check_tensor_types(gguf.get(), path, false);
    for (std::int64_t id = 0; id < info.n_tensors; ++id) {
        const std::int64_t* shape = gguf_get_tensor_ne(gguf.get(), id);
        if (shape[2] != 1 || shape[3] != 1)
            throw LoadError(path + ": the tensor " + gguf_get_tensor_name(gguf.get(), id) +
                            " has more than two dimensions; this is no LoRA adapter of a language model");
    }
}

}  // namespace colm::llama
