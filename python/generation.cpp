#include "colm/generation.h"

#include <pybind11/stl.h>

#include "bindings.h"
#include "steps.h"

namespace py = pybind11;

namespace colm::python {
namespace {

py::object next(Generation& generation) {
    std::optional<StreamedStep> streamed;
    {
        const py::gil_scoped_release release;
        streamed = generation.next();
    }
    // Ctrl-C arrived while computing: the poll saw it, and the generation has ended.
    if (PyErr_Occurred()) throw py::error_already_set();
    if (!streamed) return py::none();
    return to_tuple(streamed->step, streamed->text);
}

}  // namespace

void register_generation(py::module_& module) {
    py::class_<Generation, std::shared_ptr<Generation>>(module, "Generation")
        .def("next", &next, "The next token as a tuple, or None at the end of the text.")
        .def("cancel", &Generation::cancel)
        .def_property_readonly("finish_reason",
                               [](const Generation& self) { return reason_name(self.finish_reason()); })
        .def_property_readonly("n_prompt", [](const Generation& self) { return self.sequence().n_prompt; })
        .def_property_readonly("tokens", [](const Generation& self) { return self.sequence().tokens; })
        .def_property_readonly("end_step", [](const Generation& self) { return to_tuple(self.end_step()); })
        .def("stats", [](const Generation& self) { return to_dict(self.sequence().stats); })
        .def(
            "calls", [](const Generation& self) { return to_list(self.sequence().calls); },
            "Every llama_decode made: (model, position, n_tokens, outputs, hidden), in order.");
}

}  // namespace colm::python
