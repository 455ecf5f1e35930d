#include "colm/head.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstring>
#include <utility>

#include "bindings.h"
#include "colm/error.h"
#include "llama/head_file.h"

namespace py = pybind11;

namespace colm::python {
namespace {

using FloatArray = py::array_t<float, py::array::c_style | py::array::forcecast>;

py::object text_or_none(const std::string& text) {
    return text.empty() ? py::object(py::none()) : to_str(text);
}

// The fields of colm_cpp.Head.
py::dict to_fields(const LearnedHead& head) {
    const HeadInfo& info = head.info();
    py::list weights;
    py::list biases;
    for (const HeadLayer& layer : head.layers()) {
        py::array_t<float> weight({layer.n_out, layer.n_in});
        std::memcpy(weight.mutable_data(), layer.weight.data(), layer.weight.size() * sizeof(float));
        py::array_t<float> bias(static_cast<py::ssize_t>(layer.n_out));
        std::memcpy(bias.mutable_data(), layer.bias.data(), layer.bias.size() * sizeof(float));
        weights.append(weight);
        biases.append(bias);
    }
    std::vector<std::string> features;
    for (const Feature feature : info.features) features.emplace_back(llama::feature_name(feature));
    py::dict fields;
    fields["weights"] = weights;
    fields["biases"] = biases;
    fields["n_embd"] = info.n_embd;
    fields["kind"] = info.kind;
    fields["activation"] = llama::activation_name(info.activation);
    fields["features"] = features;
    fields["top_k"] = info.top_k;
    fields["name"] = text_or_none(info.name);
    fields["base_name"] = text_or_none(info.base_name);
    fields["assistant_name"] = text_or_none(info.assistant_name);
    fields["expert_names"] = info.expert_names;
    fields["vocab_fingerprint"] = text_or_none(info.vocab_fingerprint);
    fields["base_adapters"] = info.base_adapters;
    fields["default_threshold"] = info.default_threshold;
    fields["rates"] = info.rates;
    fields["thresholds"] = info.thresholds;
    fields["training"] = text_or_none(info.training);
    fields["calibration"] = text_or_none(info.calibration);
    return fields;
}

std::shared_ptr<const Head> learned_head(const std::vector<FloatArray>& weights,
                                         const std::vector<FloatArray>& biases, std::size_t n_embd,
                                         const std::string& kind, const std::string& activation,
                                         const std::vector<std::string>& features, std::size_t top_k,
                                         const std::string& vocab_fingerprint) {
    if (weights.size() != biases.size())
        throw HeadError("a head needs one bias vector for each weight matrix");
    HeadInfo info;
    info.kind = kind;
    info.n_embd = n_embd;
    info.activation = llama::parse_activation(activation);
    for (const std::string& feature : features) info.features.push_back(llama::parse_feature(feature));
    info.top_k = top_k;
    info.vocab_fingerprint = vocab_fingerprint;
    std::vector<HeadLayer> layers;
    for (std::size_t i = 0; i < weights.size(); ++i) {
        if (weights[i].ndim() != 2 || biases[i].ndim() != 1)
            throw HeadError("a head's weights are [n_out, n_in] and its biases [n_out]");
        layers.push_back({static_cast<std::size_t>(weights[i].shape(1)),
                          static_cast<std::size_t>(weights[i].shape(0)),
                          {weights[i].data(), weights[i].data() + weights[i].size()},
                          {biases[i].data(), biases[i].data() + biases[i].size()}});
    }
    return std::make_shared<const LearnedHead>(std::move(info), std::move(layers));
}

py::array_t<float> features_of(const FloatArray& logits, const std::vector<std::string>& names,
                               std::size_t top_k) {
    if (logits.ndim() != 1 || logits.size() == 0)
        throw OptionError("logits must be one row of at least one value");
    std::vector<Feature> features;
    std::size_t n = 0;
    for (const std::string& name : names) {
        features.push_back(llama::parse_feature(name));
        n += features.back() == Feature::top_k_logprobs ? top_k : 1;
    }
    const View<const float> view{logits.data(), static_cast<std::size_t>(logits.size())};
    const Distribution distribution = summarize(view, std::max<std::size_t>(top_k, 2));
    py::array_t<float> out(static_cast<py::ssize_t>(n));
    compute_features(distribution, features, top_k, out.mutable_data());
    return out;
}

}  // namespace

void register_head(py::module_& module) {
    py::class_<Head, std::shared_ptr<Head>>(module, "Head");
    module.def(
        "read_head", [](const std::string& path) { return to_fields(*llama::read_head(path)); },
        py::arg("path"), "Read a head file into the fields of colm_cpp.Head.");
    module.def(
        "training_free_head",
        [](const std::string& name) { return std::const_pointer_cast<Head>(make_training_free_head(name)); },
        py::arg("name"), "The head of that name, or None.");
    module.def(
        "directed_head",
        [](std::shared_ptr<Head> head, ExpertId expert, std::size_t n_experts) -> std::shared_ptr<Head> {
            return std::make_shared<DirectedHead>(std::move(head), expert, n_experts);
        },
        py::arg("head"), py::arg("expert"), py::arg("n_experts"),
        "A head that says when, for a pair of several experts: it defers to that one.");
    module.def(
        "learned_head",
        [](const std::vector<FloatArray>& weights, const std::vector<FloatArray>& biases, std::size_t n_embd,
           const std::string& kind, const std::string& activation, const std::vector<std::string>& features,
           std::size_t top_k, const std::string& vocab_fingerprint) {
            return std::const_pointer_cast<Head>(
                learned_head(weights, biases, n_embd, kind, activation, features, top_k, vocab_fingerprint));
        },
        py::arg("weights"), py::arg("biases"), py::arg("n_embd"), py::arg("kind"), py::arg("activation"),
        py::arg("features"), py::arg("top_k"), py::arg("vocab_fingerprint"));
    module.def("distribution_features", &features_of, py::arg("logits"), py::arg("features"),
               py::arg("top_k"), "The features that a head would see of these logits [n_vocab].");
}

}  // namespace colm::python
