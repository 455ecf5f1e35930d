#include "llama/file_checks.h"

#include <ggml.h>
#include <gguf.h>
#include <llama.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <optional>
#include <unordered_set>
#include <utility>
#include <vector>

#include "colm/error.h"

namespace colm::llama {
namespace {

constexpr std::int64_t kMaxLayers = 512;   // LLAMA_MAX_LAYERS
constexpr std::int64_t kMaxExperts = 512;  // LLAMA_MAX_EXPERTS

constexpr const char* kExpertIds = ".ffn_gate_tid2eid.";

// Keys by whose value (the first layer's, where there are several) llama.cpp divides, or without which it
// takes one kind of cache for another, before it looks at the tensors.
constexpr std::pair<const char*, const char*> kNeeded[] = {
    {"afmoe.", "attention.sliding_window"},
    {"olmo2.", "attention.head_count"},
    {"phimoe.", "attention.head_count"},
};
// The same, where any architecture has them.
constexpr const char* kDivisors[] = {"full_attention_interval", "wkv.head_size",
                                     "attention.output_group_count"};

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

    // An array's entries, or a number for every layer; empty where the key is absent.
    std::vector<std::int64_t> integers(const std::string& key) const {
        const auto array = info_.small_int_arrays.find(key);
        if (array != info_.small_int_arrays.end()) return array->second;
        const auto value = integer(key);
        return value ? std::vector<std::int64_t>{*value} : std::vector<std::int64_t>{};
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
    metadata.integer(arch + "embedding_length_out", 1, 1 << 20);
    for (const char* key : kDivisors) metadata.integer(arch + key, 1, (std::int64_t{1} << 32) - 1);
    for (const auto& [architecture, key] : kNeeded) {
        if (arch != architecture) continue;
        const std::vector<std::int64_t> values = metadata.integers(arch + key);
        if (values.empty()) metadata.refuse(arch + key, "is missing");
        if (values.front() < 1)
            metadata.refuse(arch + key, "is " + std::to_string(values.front()) + "; it must be 1 or more");
    }
    if (metadata.integer(arch + "attention.head_count").value_or(0) > 0)
        metadata.integer(arch + "attention.head_count_kv", 1, (std::int64_t{1} << 32) - 1);
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
    for (const char* key : {"rope.dimension_count", "rope.dimension_count_swa"}) {
        // glm5-next has attention without positions.
        const auto n_rot = metadata.integer(arch + key, arch == "glm5-next." ? 0 : 2, 1 << 16);
        if (n_rot && *n_rot % 2 != 0)
            metadata.refuse(arch + key, "is " + std::to_string(*n_rot) + "; it must be even");
    }
    // llama.cpp divides by their sum.
    for (const std::int64_t section : metadata.integers(arch + "rope.dimension_sections"))
        if (section < 0 || section > 1 << 16)
            metadata.refuse(arch + "rope.dimension_sections",
                            "holds " + std::to_string(section) + "; it must hold numbers from 0 to 65536");
    const auto scaling = metadata.text(arch + "rope.scaling.type");
    if (scaling && *scaling != "none" && *scaling != "linear" && *scaling != "yarn" && *scaling != "longrope")
        metadata.refuse(arch + "rope.scaling.type", "is \"" + *scaling + "\", which llama.cpp does not know");
}

// Integer and float64 tensors are in the format, but no operation takes them as weights. One holds ids
// instead.
void check_tensor_types(const gguf_context* gguf, const std::string& path) {
    for (std::int64_t id = 0; id < gguf_get_n_tensors(gguf); ++id) {
        const std::string name = gguf_get_tensor_name(gguf, id);
        const ggml_type type = gguf_get_tensor_type(gguf, id);
        const bool real = type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16;
        const bool holds_ids = name.find(kExpertIds) != std::string::npos && type == GGML_TYPE_I32;
        if (!real && !holds_ids && !ggml_is_quantized(type))
            throw LoadError(path + ": the tensor " + name + " is of type " + ggml_type_name(type) +
                            ", which llama.cpp cannot compute with; convert the model again");
    }
}

// Of ids that stand in the file, llama.cpp finds out only on the token that leads to them, on a worker
// thread.
void check_id(std::int64_t id, std::int64_t n, const std::string& what, const std::string& path) {
    if (id < 0 || id >= n)
        throw LoadError(path + ": " + what + " holds the id " + std::to_string(id) + "; ids are from 0 to " +
                        std::to_string(n - 1) + "; the file is damaged");
}

// Which experts a token has, where that is a table.
void check_expert_ids(const gguf_context* gguf, std::int64_t n_expert, const std::string& path) {
    for (std::int64_t tensor = 0; tensor < gguf_get_n_tensors(gguf); ++tensor) {
        const std::string name = gguf_get_tensor_name(gguf, tensor);
        if (name.find(kExpertIds) == std::string::npos) continue;
        std::ifstream file(std::filesystem::u8path(path), std::ios::binary);
        file.seekg(
            static_cast<std::streamoff>(gguf_get_data_offset(gguf) + gguf_get_tensor_offset(gguf, tensor)));
        std::vector<std::int32_t> ids(1 << 16);
        for (std::size_t left = gguf_get_tensor_size(gguf, tensor) / sizeof ids[0]; left > 0;
             left -= ids.size()) {
            ids.resize(std::min(ids.size(), left));
            file.read(reinterpret_cast<char*>(ids.data()),
                      static_cast<std::streamsize>(ids.size() * sizeof ids[0]));
            for (const std::int32_t id : ids) check_id(id, n_expert, "the tensor " + name, path);
        }
    }
}

// Which tokens are read in place of others.
void check_substitutes(const gguf_context* gguf, const std::string& key, const std::string& path) {
    const std::int64_t tokens = gguf_find_key(gguf, "tokenizer.ggml.tokens");
    const std::int64_t found = gguf_find_key(gguf, key.c_str());
    if (tokens < 0 || found < 0 || gguf_get_kv_type(gguf, found) != GGUF_TYPE_ARRAY ||
        (gguf_get_arr_type(gguf, found) != GGUF_TYPE_INT32 &&
         gguf_get_arr_type(gguf, found) != GGUF_TYPE_UINT32))
        return;
    const auto* ids = static_cast<const std::int32_t*>(gguf_get_arr_data(gguf, found));
    for (std::size_t i = 0; i < gguf_get_arr_n(gguf, found); ++i)
        check_id(ids[i], static_cast<std::int64_t>(gguf_get_arr_n(gguf, tokens)), "the key " + key, path);
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

// How many positions the table of them has; 0 where there is none.
std::int64_t positions_in(const gguf_context* gguf) {
    const std::int64_t table = gguf_find_tensor(gguf, "position_embd.weight");
    return table < 0 ? 0 : gguf_get_tensor_ne(gguf, table)[1];
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

// The paths of a split model's further parts, of which the first is named. Throws LoadError for another.
std::vector<std::string> later_parts(const GgufInfo& info, const std::string& path) {
    const Metadata metadata(info, path);
    const auto count = static_cast<int>(metadata.integer("split.count", 0, 99999).value_or(0));
    const auto number = static_cast<int>(metadata.integer("split.no", 0, 99999).value_or(0));
    const auto name_of = [&](int part) {
        std::string prefix(path.size() + 1, '\0');
        const int length = llama_split_prefix(prefix.data(), prefix.size(), path.c_str(), number, count);
        if (length <= 0) return std::string();
        std::string name(path.size() + 64, '\0');
        name.resize(static_cast<std::size_t>(
            llama_split_path(name.data(), name.size(), prefix.c_str(), part, count)));
        return name;
    };
    if (number > 0) {
        const std::string first = name_of(0);
        throw LoadError(path + " is part " + std::to_string(number + 1) + " of " + std::to_string(count) +
                        " of a split model; name its first part" + (first.empty() ? "" : ": " + first));
    }
    std::vector<std::string> later;
    for (int part = 1; part < count; ++part) {
        later.push_back(name_of(part));
        if (later.back().empty())
            throw LoadError(path + " is the first of " + std::to_string(count) +
                            " parts of a split model; its name must end in " + "-00001-of-" +
                            std::string(5 - std::min<std::size_t>(5, std::to_string(count).size()), '0') +
                            std::to_string(count) + ".gguf, so that the others are found");
    }
    return later;
}

}  // namespace

std::string architecture_of(const GgufInfo& info) { return text_of(info, "general.architecture"); }

std::int64_t check_model_file(const std::string& path) {
    const GgufInfo info = inspect_gguf(path);
    const std::string architecture = architecture_of(info);
    const std::vector<std::string> later = later_parts(info, path);
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
    check_tensor_types(gguf.get(), path);
    check_tokens(gguf.get(), path);
    check_substitutes(gguf.get(), architecture + ".adapters.token_ids_substitute", path);
    const std::int64_t n_expert = Metadata(info, path).integer(architecture + ".expert_count").value_or(0);
    check_expert_ids(gguf.get(), n_expert, path);
    std::int64_t n_positions = positions_in(gguf.get());
    for (const std::string& part : later) {
        check_complete(inspect_gguf(part), part);
        const GgufPtr further = open_gguf(part);
        check_tensor_types(further.get(), part);
        check_expert_ids(further.get(), n_expert, part);
        n_positions = std::max(n_positions, positions_in(further.get()));
    }
    return n_positions;
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
    metadata.require_finite();
    if (info.n_tensors == 0)
        throw LoadError(path + " is a LoRA adapter without any tensor; convert it again");
    const GgufPtr gguf = open_gguf(path);
    check_tensor_types(gguf.get(), path);
    for (std::int64_t id = 0; id < info.n_tensors; ++id) {
        const std::int64_t* shape = gguf_get_tensor_ne(gguf.get(), id);
        if (shape[2] != 1 || shape[3] != 1)
            throw LoadError(path + ": the tensor " + gguf_get_tensor_name(gguf.get(), id) +
                            " has more than two dimensions; this is no LoRA adapter of a language model");
    }
}

}  // namespace colm::llama
