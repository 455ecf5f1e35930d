#include "llama/text_reader.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>

#include "bindings.h"
#include "colm/error.h"
#include "llama/pair.h"
#include "llama/scoring_pair.h"
#include "loading.h"

namespace py = pybind11;

namespace colm::python {
namespace {

using llama::TextReader;

py::tuple after(TextReader& self, const std::vector<Token>& tokens, const std::shared_ptr<Head>& head,
                std::uint32_t seed) {
    TextReader::Said said;
    try {
        const auto poll = signal_poll();
        const py::gil_scoped_release release;
        said = self.after(tokens, head.get(), seed, poll);
    } catch (const Cancelled&) {
        throw py::error_already_set();  // Ctrl-C; the poll has set it
    }
    return py::make_tuple(
        py::array_t<float>(static_cast<py::ssize_t>(said.logprobs.size()), said.logprobs.data()),
        said.scores);
}

}  // namespace

void register_text_reader(py::module_& module) {
    py::class_<TextReader>(module, "TextReader")
        .def(py::init([](const llama::Pair& pair, ExpertId expert) {
                 return std::make_unique<TextReader>(pair.model(expert), pair.vocabularies(), expert);
             }),
             py::arg("pair"), py::arg("expert"), py::call_guard<py::gil_scoped_release>(),
             "One model of a pair by itself, with a context of its own.")
        .def(py::init([](const llama::ScoringPair& pair, ExpertId expert) {
                 return std::make_unique<TextReader>(*pair.models().at(expert), pair.vocabularies(), expert);
             }),
             py::arg("pair"), py::arg("expert"), py::call_guard<py::gil_scoped_release>())
        .def("after", &after, py::arg("tokens"), py::arg("head") = py::none(), py::arg("seed") = 0,
             "Log-probabilities of the token behind these, by id, and the head's z of each expert.")
        .def(
            "pieces",
            [](const TextReader& self) {
                py::list all;
                for (const std::string& piece : self.pieces()) all.append(py::bytes(piece));
                return all;
            },
            "What each id writes, as bytes; empty for control tokens.");
}

}  // namespace colm::python
