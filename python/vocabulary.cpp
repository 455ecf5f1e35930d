#include <pybind11/stl.h>

#include "bindings.h"
#include "llama/header_vocabulary.h"
#include "llama/model_file.h"
#include "loading.h"

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
                known.vocabulary = llama::VocabularyFile(path).vocabulary();
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

    using llama::VocabularyFile;
    py::class_<VocabularyFile>(module, "Tokenizer")
        .def(py::init<std::string>(), py::arg("path"), py::call_guard<py::gil_scoped_release>())
        .def("tokenize", &VocabularyFile::tokenize, py::arg("text"), py::arg("add_special"),
             py::arg("parse_special"), py::call_guard<py::gil_scoped_release>())
        .def_property_readonly(
            "size_without_padding",
            [](const VocabularyFile& self) { return self.vocabulary().size_without_padding(); })
        .def_property_readonly(
            "facts", [](const VocabularyFile& self) { return describe(self); },
            "What prompts are made with: path, chat template, special tokens, whether BOS is added.");
}

}  // namespace colm::python
