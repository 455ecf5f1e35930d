#include "llama/pair.h"

#include <pybind11/stl.h>

#include "bindings.h"
#include "loading.h"

namespace py = pybind11;

namespace colm::python {
namespace {

using llama::ModelOptions;
using llama::Pair;

std::shared_ptr<Pair> load(const ModelOptions& base, const ModelOptions& assistant,
                           const py::object& progress) {
    return load_models<Pair>(base, assistant, progress);
}

}  // namespace

void register_pair(py::module_& module) {
    module.def("stop_loading", &stop_loading, "End the loads in progress and refuse new ones.");
    py::class_<Pair, std::shared_ptr<Pair>>(module, "Pair")
        .def(py::init(&load), py::arg("base"), py::arg("assistant"), py::arg("progress") = py::none())
        .def(
            "start",
            [](const Pair& self, std::vector<Token> prompt, const std::shared_ptr<Head>& head,
               const GenerationOptions& options) {
                return self.start(std::move(prompt), head, options, signal_poll());
            },
            py::arg("prompt"), py::arg("head"), py::arg("options"))
        .def(
            "token_head",
            [](const Pair& self, const std::string& text) {
                return std::const_pointer_cast<Head>(self.token_head(text));
            },
            py::arg("text"))
        .def("check_head", &Pair::check_head, py::arg("head"))
        .def("tokenize", &Pair::tokenize, py::arg("text"), py::arg("add_special"), py::arg("parse_special"),
             py::call_guard<py::gil_scoped_release>())
        .def("detokenize", &Pair::detokenize, py::arg("tokens"), py::arg("special"))
        .def(
            "reset", [](Pair& self) { self.engine().reset(); }, py::call_guard<py::gil_scoped_release>())
        .def_property_readonly("n_ctx", [](const Pair& self) { return self.engine().n_ctx(); })
        .def_property_readonly("n_shared", &Pair::n_shared)
        .def_property_readonly("vocab_fingerprint", &Pair::vocab_fingerprint)
        .def_property_readonly("base", [](const Pair& self) { return describe(self.base()); })
        .def_property_readonly("assistant", [](const Pair& self) { return describe(self.assistant()); });
}

}  // namespace colm::python
