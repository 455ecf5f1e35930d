#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "bindings.h"
#include "colm/error.h"
#include "colm/head.h"
#include "llama/pair.h"
#include "llama/scoring_pair.h"
#include "loading.h"

namespace py = pybind11;

namespace colm::python {
namespace {

using llama::ScoringPair;
using Text = std::pair<std::vector<Token>, std::vector<std::uint8_t>>;

// A numpy array that owns the values.
template <typename T>
py::array_t<T> to_array(std::vector<T> values, std::vector<py::ssize_t> shape) {
    auto owned = std::make_unique<std::vector<T>>(std::move(values));
    const T* data = owned->data();
    const py::capsule owner(owned.get(), [](void* v) { delete static_cast<std::vector<T>*>(v); });
    owned.release();
    return py::array_t<T>(std::move(shape), data, owner);
}

py::dict to_dict(Scores scores, std::size_t top_k, std::size_t n_embd) {
    const auto n = static_cast<py::ssize_t>(scores.logprob.size());
    py::dict result;
    result["logprob"] = to_array(std::move(scores.logprob), {n});
    result["top"] = to_array(std::move(scores.top), {n});
    result["top_logprob"] = to_array(std::move(scores.top_logprob), {n});
    result["log_odds"] = to_array(std::move(scores.log_odds), {n});
    result["entropy"] = to_array(std::move(scores.entropy), {n});
    if (top_k > 0)
        result["top_k_logprobs"] =
            to_array(std::move(scores.top_k_logprobs), {n, static_cast<py::ssize_t>(top_k)});
    if (!scores.probe_logprob.empty())
        result["probe_logprob"] = to_array(std::move(scores.probe_logprob), {n});
    if (!scores.hidden.empty())
        result["hidden"] = to_array(std::move(scores.hidden), {n, static_cast<py::ssize_t>(n_embd)});
    result["n_calls"] = scores.n_calls;
    result["decode_s"] = scores.decode_s;
    return result;
}

std::vector<ScoredText> scored(std::vector<Text> texts) {
    std::vector<ScoredText> given;
    given.reserve(texts.size());
    for (Text& text : texts) given.push_back({std::move(text.first), std::move(text.second)});
    return given;
}

// What `read` gives, computed without the GIL.
template <typename Read>
auto read_texts(const Read& read) {
    try {
        const auto poll = signal_poll();
        const py::gil_scoped_release release;
        return read(poll);
    } catch (const Cancelled&) {
        if (PyErr_Occurred() != nullptr) throw py::error_already_set();
        throw PairClosed();
    }
}

py::list score(ScoringPair& self, std::vector<Text> texts, std::size_t top_k,
               std::map<ExpertId, std::vector<Text>> own) {
    const std::vector<ScoredText> given = scored(std::move(texts));
    ScoringPair::OwnTexts own_texts;
    for (auto& [expert, of_expert] : own) own_texts[expert] = scored(std::move(of_expert));
    auto scores = read_texts([&](const auto& poll) { return self.score(given, own_texts, top_k, poll); });
    py::list found;
    for (Scores& of_model : scores) {
        const bool base = found.empty();
        found.append(to_dict(std::move(of_model), base ? top_k : 0, self.base().n_embd()));
    }
    return found;
}

py::dict read(ScoringPair& self, ExpertId expert, std::vector<Text> texts, std::size_t top_k, bool hidden,
              const std::vector<Token>& probes) {
    const std::vector<ScoredText> given = scored(std::move(texts));
    Scorer::Wanted wanted;
    wanted.top_k = top_k;
    wanted.hidden = hidden;
    if (!probes.empty()) wanted.probes = {probes.data(), probes.size()};
    Scores scores = read_texts([&](const auto& poll) { return self.read(expert, given, wanted, poll); });
    return to_dict(std::move(scores), top_k, self.models()[expert]->n_embd());
}

py::list pieces(const ScoringPair& self, const std::vector<Token>& tokens, ExpertId expert) {
    py::list found;
    for (const std::string& piece : self.pieces(tokens, expert)) found.append(py::bytes(piece));
    return found;
}

py::dict to_dict(Scores scores, std::size_t n_likeliest, std::size_t n_experts, bool mixed) {
    const auto n = static_cast<py::ssize_t>(scores.logprob.size());
    const auto k = static_cast<py::ssize_t>(n_likeliest);
    const auto n_others = static_cast<py::ssize_t>(n_experts);
    py::dict result;
    result["logprob"] = to_array(std::move(scores.logprob), {n});
    result["likeliest"] = to_array(std::move(scores.likeliest), {n, k});
    result["likeliest_logprob"] = to_array(std::move(scores.likeliest_logprob), {n, k});
    if (mixed && k > 0)
        result["probe_logprob"] = to_array(std::move(scores.probe_logprob), {n, n_others * k});
    if (!scores.expert_logits.empty()) {
        result["defer_logit"] = to_array(std::move(scores.defer_logit), {n});
        result["expert_logits"] = to_array(std::move(scores.expert_logits), {n, n_others});
    }
    return result;
}

py::list likelihoods(ScoringPair& self, std::vector<Text> texts, const std::shared_ptr<Head>& head,
                     std::uint32_t seed, std::size_t n_likeliest, bool mixed) {
    const std::vector<ScoredText> given = scored(std::move(texts));
    auto scores = read_texts(
        [&](const auto& poll) { return self.likelihoods(given, *head, seed, n_likeliest, mixed, poll); });
    py::list found;
    for (Scores& of_model : scores)
        found.append(to_dict(std::move(of_model), n_likeliest, scores.size() - 1, mixed));
    return found;
}

}  // namespace

void register_scoring(py::module_& module) {
    py::class_<ScoringPair, std::shared_ptr<ScoringPair>>(module, "ScoringPair")
        .def(py::init(
                 [](const NamedOptions& members, const py::object& progress, const llama::Pair* weights_of) {
                     return load_models(members, progress, [&](const std::vector<llama::Member>& models) {
                         return std::make_shared<ScoringPair>(models, weights_of);
                     });
                 }),
             py::arg("members"), py::arg("progress") = py::none(), py::arg("weights_of") = py::none(),
             "The models by their names, the base first.")
        .def("score", &score, py::arg("texts"), py::arg("top_k"),
             py::arg("own") = std::map<ExpertId, std::vector<Text>>())
        .def("likelihoods", &likelihoods, py::arg("texts"), py::arg("head"), py::arg("seed"),
             py::arg("n_likeliest"), py::arg("mixed"))
        .def("tokenize", &ScoringPair::tokenize, py::arg("text"), py::arg("add_special"),
             py::arg("parse_special"), py::arg("expert") = kBase, py::call_guard<py::gil_scoped_release>())
        .def("read", &read, py::arg("expert"), py::arg("texts"), py::arg("top_k"), py::arg("hidden"),
             py::arg("probes"))
        .def(
            "check",
            [](const ScoringPair& self, ExpertId expert, std::vector<Text> texts) {
                self.check(expert, scored(std::move(texts)));
            },
            py::arg("expert"), py::arg("texts"))
        .def("pieces", &pieces, py::arg("tokens"), py::arg("expert"))
        .def_property_readonly(
            "vocabularies", [](const ScoringPair& self) { return self.vocabularies().numbers(); },
            "By model: equal numbers are one vocabulary.")
        .def_property_readonly("n_ids",
                               [](const ScoringPair& self) {
                                   std::vector<std::size_t> found;
                                   for (ExpertId e = 0; e < self.models().size(); ++e)
                                       found.push_back(self.vocabularies().n_ids(e));
                                   return found;
                               })
        .def_property_readonly("vocab_fingerprint", &ScoringPair::vocab_fingerprint)
        .def("facts", [](const ScoringPair& self) {
            py::list found;
            for (const auto& model : self.models()) found.append(describe(*model));
            return found;
        });
}

}  // namespace colm::python
