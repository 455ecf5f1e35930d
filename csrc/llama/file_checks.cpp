#include "llama/file_checks.h"

#include <ggml.h>
#include <llama.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
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
    {"wavtokenizer-dec.", "attention.group_norm_groups"},
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
void check_tensor_types(const GgufInfo& info, const std::string& path) {
    for (const GgufTensor& tensor : info.tensors) {
        const auto type = static_cast<ggml_type>(tensor.type);
        const bool real = type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16;
        const bool holds_ids = tensor.name.find(kExpertIds) != std::string::npos && type == GGML_TYPE_I32;
        if (!real && !holds_ids && !ggml_is_quantized(type))
            throw LoadError(path + ": the tensor " + tensor.name + " is of type " + ggml_type_name(type) +
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
void check_expert_ids(const GgufInfo& info, std::int64_t n_expert, const std::string& path) {
    for (const GgufTensor& tensor : info.tensors) {
        if (tensor.name.find(kExpertIds) == std::string::npos) continue;
        std::ifstream file(std::filesystem::u8path(path), std::ios::binary);
        file.seekg(static_cast<std::streamoff>(tensor.offset));
        std::vector<std::int32_t> ids(1 << 16);
        for (std::size_t left = tensor.bytes / sizeof ids[0]; left > 0; left -= ids.size()) {
            ids.resize(std::min(ids.size(), left));
            file.read(reinterpret_cast<char*>(ids.data()),
                      static_cast<std::streamsize>(ids.size() * sizeof ids[0]));
            for (const std::int32_t id : ids) check_id(id, n_expert, "the tensor " + tensor.name, path);
        }
    }
}

void check_vocabulary(const GgufInfo& info, const std::string& path) {
    const auto tokens = info.array_lengths.find("tokenizer.ggml.tokens");
    if (!info.tokens_are_texts || info.metadata.count("tokenizer.ggml.tokens") > 0)
        throw LoadError(path + ": the key tokenizer.ggml.tokens is not an array of strings");
    if (tokens == info.array_lengths.end()) return;
    if (info.repeated_token)
        throw LoadError(path + ": its vocabulary holds the text \"" + info.repeated_text +
                        "\" twice, again at token " + std::to_string(*info.repeated_token) +
                        "; the file is damaged");
    // Which tokens are read in place of others.
    const std::string key = architecture_of(info) + ".adapters.token_ids_substitute";
    const auto substitutes = info.int_ranges.find(key);
    if (substitutes == info.int_ranges.end()) return;
    const auto [least, most] = substitutes->second;
    for (const std::int64_t id : {least, most}) check_id(id, tokens->second, "the key " + key, path);
}

// How many positions the table of them has; 0 where there is none.
std::int64_t positions_in(const GgufInfo& info) {
    for (const GgufTensor& tensor : info.tensors)
        if (tensor.name == "position_embd.weight") return tensor.shape[1];
    return 0;
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
    const std::shared_ptr<const GgufInfo> parsed = inspect_gguf(path);
    const GgufInfo& info = *parsed;
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
    check_tensor_types(info, path);
    check_vocabulary(info, path);
    const std::int64_t n_expert = Metadata(info, path).integer(architecture + ".expert_count").value_or(0);
    check_expert_ids(info, n_expert, path);
    std::int64_t n_positions = positions_in(info);
    for (const std::string& part : later) {
        const std::shared_ptr<const GgufInfo> further = inspect_gguf(part);
        check_complete(*further, part);
        check_tensor_types(*further, part);
        check_expert_ids(*further, n_expert, part);
        n_positions = std::max(n_positions, positions_in(*further));
    }
    return n_positions;
}

void check_adapter_file(const std::string& path) {
    const std::shared_ptr<const GgufInfo> parsed = inspect_gguf(path);
    const GgufInfo& info = *parsed;
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
    if (info.tensors.empty())
        throw LoadError(path + " is a LoRA adapter without any tensor; convert it again");
    check_tensor_types(info, path);
    for (const GgufTensor& tensor : info.tensors)
        if (tensor.shape[2] != 1 || tensor.shape[3] != 1)
            throw LoadError(path + ": the tensor " + tensor.name +
                            " has more than two dimensions; this is no LoRA adapter of a language model");
}

}  // namespace colm::llama
