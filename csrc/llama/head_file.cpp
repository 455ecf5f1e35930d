#include "llama/head_file.h"

#include <ggml.h>
#include <gguf.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <utility>

#include "colm/error.h"
#include "colm/shown.h"
#include "llama/gguf_file.h"

namespace colm::llama {
namespace {

// A head for several experts is of version 2, so that what knows one number alone refuses it by name.
constexpr std::uint32_t kVersion = 1;
constexpr std::uint32_t kVersionOfSeveral = 2;
// What a head may be at most, as in heads/checks.py: a file must not make its reader allocate what it merely
// declares.
constexpr std::uint32_t kMaxLayers = 64;
constexpr std::uint32_t kMaxEmbd = 1U << 20U;
constexpr std::uint64_t kMaxWeights = 1U << 27U;
constexpr std::size_t kMaxTopK = 64;
constexpr std::size_t kMaxRates = 4096;
constexpr std::size_t kMaxAdapters = 64;
constexpr std::uint64_t kMaxHeaderBytes = 16U << 20U;

// Typed access to the keys: gguf's own getters abort the process on a key of another type.
class Keys {
  public:
    Keys(const gguf_context* gguf, const std::string& path) : gguf_(gguf), path_(path) {}

    std::string text(const char* key, const char* fallback = nullptr) const {
        const std::int64_t id = find(key, GGUF_TYPE_STRING, fallback == nullptr);
        return id < 0 ? fallback : gguf_get_val_str(gguf_, id);
    }
    std::uint32_t number(const char* key) const {
        return gguf_get_val_u32(gguf_, find(key, GGUF_TYPE_UINT32, true));
    }
    std::optional<std::uint32_t> optional_number(const char* key) const {
        const std::int64_t id = find(key, GGUF_TYPE_UINT32, false);
        if (id < 0) return std::nullopt;
        return gguf_get_val_u32(gguf_, id);
    }
    std::optional<float> real(const char* key) const {
        const std::int64_t id = find(key, GGUF_TYPE_FLOAT32, false);
        if (id < 0) return std::nullopt;
        return gguf_get_val_f32(gguf_, id);
    }
    std::vector<float> reals(const char* key) const {
        const std::int64_t id = find_array(key, GGUF_TYPE_FLOAT32);
        if (id < 0) return {};
        if (gguf_get_arr_n(gguf_, id) > kMaxRates)
            throw HeadError(path_ + ": the key " + key + " has " + std::to_string(gguf_get_arr_n(gguf_, id)) +
                            " values; at most " + std::to_string(kMaxRates) + " are possible");
        const auto* data = static_cast<const float*>(gguf_get_arr_data(gguf_, id));
        return {data, data + gguf_get_arr_n(gguf_, id)};
    }
    std::vector<std::string> texts(const char* key) const {
        const std::int64_t id = find_array(key, GGUF_TYPE_STRING);
        std::vector<std::string> values;
        if (id >= 0)
            for (std::size_t i = 0; i < gguf_get_arr_n(gguf_, id); ++i)
                values.emplace_back(gguf_get_arr_str(gguf_, id, i));
        return values;
    }

  private:
    std::int64_t find(const char* key, gguf_type type, bool required) const {
        const std::int64_t id = gguf_find_key(gguf_, key);
        if (id < 0 && required) throw HeadError(path_ + " lacks the key " + key);
        if (id >= 0 && gguf_get_kv_type(gguf_, id) != type)
            throw HeadError(path_ + ": the key " + key + " is not of type " + gguf_type_name(type));
        return id;
    }
    std::int64_t find_array(const char* key, gguf_type element) const {
        const std::int64_t id = find(key, GGUF_TYPE_ARRAY, false);
        if (id >= 0 && gguf_get_arr_type(gguf_, id) != element)
            throw HeadError(path_ + ": the key " + key + " is not an array of " + gguf_type_name(element));
        return id;
    }

    const gguf_context* gguf_;
    const std::string& path_;
};

std::optional<std::vector<std::pair<std::string, float>>> read_adapters(const Keys& keys,
                                                                        const std::string& path) {
    const std::optional<std::uint32_t> n = keys.optional_number("colm-head.n_base_adapters");
    if (!n) return std::nullopt;
    const std::vector<std::string> digests = keys.texts("colm-head.base_adapters");
    const std::vector<float> scales = keys.reals("colm-head.base_adapter_scales");
    if (*n > kMaxAdapters || digests.size() != *n || scales.size() != *n)
        throw HeadError(path + ": n_base_adapters is " + std::to_string(*n) + " (at most " +
                        std::to_string(kMaxAdapters) + "), but there are " + std::to_string(digests.size()) +
                        " base_adapters and " + std::to_string(scales.size()) + " base_adapter_scales");
    std::vector<std::pair<std::string, float>> adapters;
    for (std::size_t i = 0; i < digests.size(); ++i) adapters.emplace_back(digests[i], scales[i]);
    return adapters;
}

HeadInfo read_info(const gguf_context* gguf, const std::string& path) {
    const Keys keys(gguf, path);
    HeadInfo info;
    const std::uint32_t version = keys.number("colm-head.version");
    if (version != kVersion && version != kVersionOfSeveral)
        throw HeadError(path + " is of head format version " + std::to_string(version) +
                        "; this colm-cpp reads versions " + std::to_string(kVersion) + " and " +
                        std::to_string(kVersionOfSeveral));
    info.expert_names = keys.texts("colm-head.expert_names");
    const std::size_t n_names = info.expert_names.size();
    if (n_names > kMostExperts || (version == kVersion ? n_names > 1 : n_names < 2))
        throw HeadError(path + " names " + std::to_string(n_names) + " experts; a head of version " +
                        std::to_string(version) + " names " +
                        (version == kVersion ? "at most 1" : "2 to " + std::to_string(kMostExperts)));
    info.name = keys.text("general.name", "");
    info.kind = keys.text("colm-head.kind");
    if (info.kind != "linear" && info.kind != "mlp")
        throw HeadError(path + ": head kind " + shown(info.kind) + " is neither linear nor mlp");
    info.n_embd = keys.number("colm-head.n_embd");
    if (info.n_embd < 1 || info.n_embd > kMaxEmbd)
        throw HeadError(path + ": n_embd is " + std::to_string(info.n_embd) + "; it must be from 1 to " +
                        std::to_string(kMaxEmbd));
    info.activation = parse_activation(keys.text("colm-head.activation", "relu"));
    for (const std::string& name : keys.texts("colm-head.features")) {
        const Feature feature = parse_feature(name);
        if (std::find(info.features.begin(), info.features.end(), feature) != info.features.end())
            throw HeadError(path + ": the feature " + name + " is named twice");
        info.features.push_back(feature);
    }
    for (const Feature feature : info.features)
        if (feature == Feature::top_k_logprobs) info.top_k = keys.number("colm-head.top_k");
    if (info.top_k > kMaxTopK)
        throw HeadError(path + ": top_k is " + std::to_string(info.top_k) + "; at most 64 are possible");
    info.base_name = keys.text("colm-head.base_name", "");
    info.assistant_name = keys.text("colm-head.assistant_name", "");
    info.vocab_fingerprint = keys.text("colm-head.vocab_fingerprint", "");
    info.base_adapters = read_adapters(keys, path);
    info.default_threshold = keys.real("colm-head.default_threshold");
    info.rates = keys.reals("colm-head.rates");
    info.thresholds = keys.reals("colm-head.thresholds");
    info.training = keys.text("colm-head.training", "");
    info.calibration = keys.text("colm-head.calibration", "");
    if (info.rates.size() != info.thresholds.size())
        throw HeadError(path + ": the calibration table has " + std::to_string(info.rates.size()) +
                        " rates and " + std::to_string(info.thresholds.size()) + " thresholds");
    return info;
}

// The tensors of a head file, read where they lie and only when asked for.
class Tensors {
  public:
    Tensors(const gguf_context* gguf, const std::string& path)
        : gguf_(gguf),
          path_(path),
          stream_(std::filesystem::u8path(path), std::ios::binary),
          file_bytes_(std::filesystem::file_size(std::filesystem::u8path(path))) {}

    // Throws LoadError where the file ends before the last of its tensors does.
    void check_complete() const {
        for (std::int64_t id = 0; id < gguf_get_n_tensors(gguf_); ++id) {
            const std::uint64_t begin = begin_of(id);
            const std::uint64_t size = gguf_get_tensor_size(gguf_, id);
            if (begin > file_bytes_ || size > file_bytes_ - begin)
                throw LoadError(path_ + " is cut short: it has " + std::to_string(file_bytes_) +
                                " bytes, and the tensor " + gguf_get_tensor_name(gguf_, id) +
                                " takes bytes " + std::to_string(begin) + " to " +
                                std::to_string(begin + size));
        }
    }

    // How many rows the matrix [n_out, n_in] of that name has; a vector has one.
    std::size_t n_rows(const std::string& name) const {
        return static_cast<std::size_t>(gguf_get_tensor_ne(gguf_, find(name))[1]);
    }

    // The float32 matrix [n_out, n_in] of that name, or for n_out 1 the vector [n_in].
    std::vector<float> read(const std::string& name, std::size_t n_in, std::size_t n_out) {
        const std::int64_t id = find(name);
        const ggml_type type = gguf_get_tensor_type(gguf_, id);
        if (type != GGML_TYPE_F32)
            throw HeadError(path_ + ": the tensor " + name + " is " + ggml_type_name(type) + ", not f32");
        const std::int64_t* shape = gguf_get_tensor_ne(gguf_, id);
        if (shape[0] != static_cast<std::int64_t>(n_in) || shape[1] != static_cast<std::int64_t>(n_out) ||
            shape[2] != 1 || shape[3] != 1)
            throw HeadError(path_ + ": the tensor " + name + " has " + std::to_string(shape[3]) + " x " +
                            std::to_string(shape[2]) + " x " + std::to_string(shape[1]) + " x " +
                            std::to_string(shape[0]) + " values; the head needs " + std::to_string(n_out) +
                            " x " + std::to_string(n_in));
        std::vector<float> values(n_in * n_out);
        const auto n_bytes = static_cast<std::streamsize>(values.size() * sizeof(float));
        stream_.seekg(static_cast<std::streamoff>(begin_of(id)));
        stream_.read(reinterpret_cast<char*>(values.data()), n_bytes);
        if (stream_.gcount() != n_bytes)
            throw LoadError(path_ + " cannot be read: its tensor " + name + " ends after " +
                            std::to_string(stream_.gcount()) + " of " + std::to_string(n_bytes) + " bytes");
        for (const float value : values)
            if (!std::isfinite(value))
                throw HeadError(path_ + ": the tensor " + name + " holds a value that is not finite");
        return values;
    }

  private:
    std::int64_t find(const std::string& name) const {
        const std::int64_t id = gguf_find_tensor(gguf_, name.c_str());
        if (id < 0) throw HeadError(path_ + " lacks the tensor " + name);
        return id;
    }
    std::uint64_t begin_of(std::int64_t id) const {
        return gguf_get_data_offset(gguf_) + gguf_get_tensor_offset(gguf_, id);
    }

    const gguf_context* gguf_;
    const std::string& path_;
    std::ifstream stream_;
    std::uint64_t file_bytes_;
};

std::string architecture_of(const gguf_context* gguf) {
    const std::int64_t id = gguf_find_key(gguf, "general.architecture");
    return id < 0 || gguf_get_kv_type(gguf, id) != GGUF_TYPE_STRING ? "" : gguf_get_val_str(gguf, id);
}

}  // namespace

Feature parse_feature(const std::string& name) {
    for (const Feature feature :
         {Feature::log_odds, Feature::entropy, Feature::margin, Feature::top_k_logprobs})
        if (name == feature_name(feature)) return feature;
    throw HeadError("unknown head feature " + shown(name) +
                    "; known are log_odds, entropy, margin, top_k_logprobs");
}

const char* feature_name(Feature feature) {
    switch (feature) {
        case Feature::log_odds:
            return "log_odds";
        case Feature::entropy:
            return "entropy";
        case Feature::margin:
            return "margin";
        case Feature::top_k_logprobs:
            return "top_k_logprobs";
    }
    return "";
}

Activation parse_activation(const std::string& name) {
    for (const Activation activation : {Activation::relu, Activation::gelu, Activation::silu})
        if (name == activation_name(activation)) return activation;
    throw HeadError("unknown head activation " + shown(name) + "; known are relu, gelu, silu");
}

const char* activation_name(Activation activation) {
    switch (activation) {
        case Activation::relu:
            return "relu";
        case Activation::gelu:
            return "gelu";
        case Activation::silu:
            return "silu";
    }
    return "";
}

std::shared_ptr<const LearnedHead> read_head(const std::string& path) {
    const GgufPtr gguf = open_gguf(path, kMaxHeaderBytes);
    const std::string architecture = architecture_of(gguf.get());
    if (architecture != "colm-head")
        throw HeadError(path + " is not a deferral head: its general.architecture is " +
                        (architecture.empty() ? std::string("missing") : shown(architecture)) +
                        ", not \"colm-head\"");
    Tensors tensors(gguf.get(), path);
    tensors.check_complete();
    HeadInfo info = read_info(gguf.get(), path);
    const std::uint32_t n_layers = Keys(gguf.get(), path).number("colm-head.n_layers");
    if (n_layers < 1 || n_layers > kMaxLayers || (info.kind == "linear" && n_layers != 1))
        throw HeadError(path + ": a head of kind " + info.kind + " cannot have " + std::to_string(n_layers) +
                        " layers");
    std::size_t n_in = info.n_embd;
    for (const Feature feature : info.features) n_in += feature == Feature::top_k_logprobs ? info.top_k : 1;
    std::vector<HeadLayer> layers(n_layers);
    std::uint64_t n_weights = 0;
    for (std::uint32_t i = 0; i < n_layers; ++i) {
        const std::string prefix = "layers." + std::to_string(i);
        // The last layer gives a number for each expert; what the others give, their own shapes say.
        const std::size_t n_experts = std::max<std::size_t>(1, info.expert_names.size());
        const std::size_t n_out = i + 1 == n_layers ? n_experts : tensors.n_rows(prefix + ".weight");
        if (n_out < 1 || n_out > kMaxWeights / n_in || (n_weights += n_out * n_in) > kMaxWeights)
            throw HeadError(path + ": the tensor " + prefix + ".weight has " + std::to_string(n_out) + " x " +
                            std::to_string(n_in) + " values; a head has at least one row and at most " +
                            std::to_string(kMaxWeights) + " weights");
        layers[i] = {n_in, n_out, tensors.read(prefix + ".weight", n_in, n_out),
                     tensors.read(prefix + ".bias", n_out, 1)};
        n_in = n_out;
    }
    return std::make_shared<const LearnedHead>(std::move(info), std::move(layers));
}

}  // namespace colm::llama
