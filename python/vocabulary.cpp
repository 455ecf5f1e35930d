#include <pybind11/stl.h>

#include "bindings.h"
#include "llama/header_vocabulary.h"
#include "llama/model_file.h"

namespace py = pybind11;

namespace colm::python {

void register_vocabulary(py::module_& module) {
    using llama::HeaderVocabulary;
    py::class_<HeaderVocabulary>(module, "Vocabulary")
        .def_static(
            "of_header",
            [](const std::string& path) {
                const py::gil_scoped_release release;
                return llama::read_header_vocabulary(path);
            },
            py::arg("path"), "A file's vocabulary by its header alone.")
        .def_static(
            "loaded",
            [](const std::string& path) {
                const py::gil_scoped_release release;
                HeaderVocabulary known = llama::read_header_vocabulary(path);
                known.vocabulary = llama::load_vocabulary(path);
                known.says_bos = true;
                return known;
            },
            py::arg("path"), "A file's vocabulary as llama.cpp has it.")
        .def(
            "shared_with",
            [](const HeaderVocabulary& base, const HeaderVocabulary& assistant) {
                const py::gil_scoped_release release;
                return llama::shared_by_header(base, assistant);
            },
            py::arg("assistant"),
            "How many ids this base and that assistant share; None where the headers do not say whether both "
            "add the "
            "same BOS. Raises VocabMismatch.")
        .def_property_readonly("type", [](const HeaderVocabulary& self) { return self.vocabulary.type; })
        .def_property_readonly("size", [](const HeaderVocabulary& self) { return self.vocabulary.size(); })
        .def_property_readonly("fingerprint",
                               [](const HeaderVocabulary& self) { return fingerprint(self.vocabulary); });
}

}  // namespace colm::python
