#include "llama/head_file.h"

#include <ggml.h>
#include <gguf.h>

#include <cmath>
#include <cstring>
#include <utility>

#include "colm/error.h"
#include "llama/file_checks.h"

namespace colm::llama {
namespace {

struct GgmlDeleter {
    void operator()(ggml_context* ggml) const { ggml_free(ggml); }
};
using GgmlPtr = std::unique_ptr<ggml_context, GgmlDeleter>;

constexpr std::uint32_t kVersion = 1;
constexpr std::uint32_t kMaxLayers = 64;
constexpr std::size_t kMaxTopK = 64;

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
    std::optional<float> real(const char* key) const {
        const std::int64_t id = find(key, GGUF_TYPE_FLOAT32, false);
        if (id < 0) return std::nullopt;
        return gguf_get_val_f32(gguf_, id);
    }
    std::vector<float> reals(const char* key) const {
        const std::int64_t id = find_array(key, GGUF_TYPE_FLOAT32);
        if (id < 0) return {};
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

HeadInfo read_info(const gguf_context* gguf, const std::string& path) {
    const Keys keys(gguf, path);
    HeadInfo info;
    const std::uint32_t version = keys.number("colm-head.version");
    if (version != kVersion)
        throw HeadError(path + " is of head format version " + std::to_string(version) +
                        "; this colm-cpp reads version " + std::to_string(kVersion));
    info.name = keys.text("general.name", "");
    info.kind = keys.text("colm-head.kind");
    if (info.kind != "linear" && info.kind != "mlp")
        throw HeadError(path + ": head kind \"" + info.kind + "\" is neither linear nor mlp");
    info.n_embd = keys.number("colm-head.n_embd");
    info.activation = parse_activation(keys.text("colm-head.activation", "relu"));
    for (const std::string& name : keys.texts("colm-head.features"))
        info.features.push_back(parse_feature(name));
    for (const Feature feature : info.features)
        if (feature == Feature::top_k_logprobs) info.top_k = keys.number("colm-head.top_k");
    if (info.top_k > kMaxTopK)
        throw HeadError(path + ": top_k is " + std::to_string(info.top_k) + "; at most 64 are possible");
    info.base_name = keys.text("colm-head.base_name", "");
    info.assistant_name = keys.text("colm-head.assistant_name", "");
    info.vocab_fingerprint = keys.text("colm-head.vocab_fingerprint", "");
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

std::vector<float> read_tensor(ggml_context* ggml, const std::string& path, const std::string& name,
                               int n_dims, std::size_t& n_in, std::size_t& n_out) {
    const ggml_tensor* tensor = ggml_get_tensor(ggml, name.c_str());
    if (tensor == nullptr) throw HeadError(path + " lacks the tensor " + name);
    if (tensor->type != GGML_TYPE_F32)
        throw HeadError(path + ": the tensor " + name + " is " + ggml_type_name(tensor->type) + ", not f32");
    if (tensor->ne[2] != 1 || tensor->ne[3] != 1 || (n_dims == 1 && tensor->ne[1] != 1))
        throw HeadError(path + ": the tensor " + name + " has too many dimensions");
    n_in = static_cast<std::size_t>(tensor->ne[0]);
    n_out = static_cast<std::size_t>(tensor->ne[1]);
    std::vector<float> values(n_in * n_out);
    std::memcpy(values.data(), tensor->data, values.size() * sizeof(float));
    for (const float value : values)
        if (!std::isfinite(value))
            throw HeadError(path + ": the tensor " + name + " holds a value that is not finite");
    return values;
}

}  // namespace

Feature parse_feature(const std::string& name) {
    for (const Feature feature :
         {Feature::log_odds, Feature::entropy, Feature::margin, Feature::top_k_logprobs})
        if (name == feature_name(feature)) return feature;
    throw HeadError("unknown head feature \"" + name +
                    "\"; known are log_odds, entropy, margin, top_k_logprobs");
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
    throw HeadError("unknown head activation \"" + name + "\"; known are relu, gelu, silu");
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
    const GgufInfo file = inspect_gguf(path);
    const std::string architecture = architecture_of(file);
    if (architecture != "colm-head")
        throw HeadError(path + " is not a deferral head: its general.architecture is " +
                        (architecture.empty() ? std::string("missing") : "\"" + architecture + "\"") +
                        ", not \"colm-head\"");
    if (file.truncated)
        throw LoadError(path + " is cut short: it has " + std::to_string(file.file_bytes) + " of " +
                        std::to_string(file.expected_bytes) + " bytes");

    ggml_context* tensors = nullptr;
    const GgufPtr gguf(gguf_init_from_file(path.c_str(), {/*no_alloc=*/false, &tensors}));
    const GgmlPtr owner(tensors);
    if (!gguf) throw LoadError(path + " is a damaged head file");
    HeadInfo info = read_info(gguf.get(), path);
    const std::uint32_t n_layers = Keys(gguf.get(), path).number("colm-head.n_layers");
    if (n_layers < 1 || n_layers > kMaxLayers || (info.kind == "linear" && n_layers != 1))
        throw HeadError(path + ": a head of kind " + info.kind + " cannot have " + std::to_string(n_layers) +
                        " layers");
    std::vector<HeadLayer> layers(n_layers);
    for (std::uint32_t i = 0; i < n_layers; ++i) {
        const std::string prefix = "layers." + std::to_string(i);
        std::size_t n_bias = 0;
        std::size_t one = 0;
        layers[i].weight = read_tensor(tensors, path, prefix + ".weight", 2, layers[i].n_in, layers[i].n_out);
        layers[i].bias = read_tensor(tensors, path, prefix + ".bias", 1, n_bias, one);
    }
    return std::make_shared<const LearnedHead>(std::move(info), std::move(layers));
}

}  // namespace colm::llama
