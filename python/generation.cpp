#include "colm/generation.h"

#include <pybind11/stl.h>

#include "bindings.h"
#include "steps.h"

namespace py = pybind11;

namespace colm::python {
namespace {

// What `read` returns without the GIL.
template <typename Read>
auto computed(const Read& read) {
    auto result = [&] {
        const py::gil_scoped_release release;
        return read();
    }();
    // Ctrl-C arrived while computing or waiting: the poll saw it, and the generation has ended.
    if (PyErr_Occurred() != nullptr) throw py::error_already_set();
    return result;
}

py::object next(Generation& generation, std::optional<double> timeout) {
    const auto streamed = computed([&] { return generation.next(timeout); });
    if (!streamed) return py::none();
    return to_tuple(streamed->step, streamed->text);
}

py::list rest(Generation& generation, std::optional<double> timeout) {
    py::list steps;
    for (const StreamedStep& streamed : computed([&] { return generation.rest(timeout); }))
        steps.append(to_tuple(streamed.step, streamed.text));
    return steps;
}

}  // namespace

void register_generation(py::module_& module) {
    py::class_<Generation, std::shared_ptr<Generation>>(module, "Generation")
        .def("next", &next, py::arg("timeout") = py::none(),
             "The next token as a tuple, or None at the end of the text. Waits for its turn up to `timeout` "
             "seconds.")
        .def("rest", &rest, py::arg("timeout") = py::none(), "All that next() would give, in one turn.")
        .def("cancel", &Generation::cancel)
        .def("give_back", &Generation::give_back, "End the text where it stands, and its turn.")
        .def_property_readonly("begun", &Generation::begun)
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
