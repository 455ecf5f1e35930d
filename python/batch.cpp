#include <pybind11/stl.h>

#include "bindings.h"
#include "colm/error.h"
#include "colm/scheduler.h"
#include "llama/pair.h"
#include "loading.h"
#include "steps.h"

namespace py = pybind11;

namespace colm::python {
namespace {

using llama::Pair;
using Finished = Scheduler::Finished;

// A scheduler that one thread drives and any may stop.
class Batch {
  public:
    Batch(const Pair& pair, std::size_t n_parallel)
        : scheduler_(pair.batch(n_parallel)), interrupt_(signal_poll()) {}

    void add(const Pair& pair, std::size_t number, std::vector<Token> prompt,
             const std::shared_ptr<Head>& head, const GenerationOptions& options) {
        const py::gil_scoped_release release;  // a grammar is built here
        scheduler_->add(number, pair.write(std::move(prompt), head, options, scheduler_->n_ctx()));
    }

    std::shared_ptr<Finished> next() {
        try {
            const py::gil_scoped_release release;
            std::optional<Finished> finished = scheduler_->next(interrupt_);
            return finished ? std::make_shared<Finished>(std::move(*finished)) : nullptr;
        } catch (const Cancelled&) {
            // Ctrl-C arrived while computing: the poll saw it.
            if (PyErr_Occurred() != nullptr) throw py::error_already_set();
            throw PairClosed();
        }
    }

    void cancel() { interrupt_.request(); }
    const Scheduler& scheduler() const { return *scheduler_; }

  private:
    std::shared_ptr<Scheduler> scheduler_;
    Interrupt interrupt_;
};

py::list steps_of(Finished& finished) {
    py::list steps;
    while (!finished.writing.empty()) {
        const StreamedStep streamed = finished.writing.pop();
        steps.append(to_tuple(streamed.step, streamed.text));
    }
    return steps;
}

}  // namespace

void register_batch(py::module_& module) {
    py::class_<Finished, std::shared_ptr<Finished>>(module, "FinishedText")
        .def_readonly("number", &Finished::number)
        .def(
            "check",
            [](const Finished& self) {
                if (self.error) std::rethrow_exception(self.error);
            },
            "Raise the error that ended the text, where one did.")
        .def("take_steps", &steps_of, "The tokens as tuples, once.")
        .def_property_readonly("finish_reason",
                               [](const Finished& self) { return reason_name(self.writing.finish_reason()); })
        .def_property_readonly("n_prompt",
                               [](const Finished& self) { return self.writing.sequence().n_prompt; })
        .def_property_readonly("tokens", [](const Finished& self) { return self.writing.sequence().tokens; })
        .def_property_readonly("end_step",
                               [](const Finished& self) { return to_tuple(self.writing.end_step()); })
        .def("stats", [](const Finished& self) { return to_dict(self.writing.sequence().stats); })
        .def("calls", [](const Finished& self) { return to_list(self.writing.sequence().calls); });

    py::class_<Batch, std::shared_ptr<Batch>>(module, "Batch")
        .def(py::init([](const Pair& pair, std::size_t n_parallel) {
                 return std::make_shared<Batch>(pair, n_parallel);
             }),
             py::arg("pair"), py::arg("n_parallel"))
        .def("add", &Batch::add, py::arg("pair"), py::arg("number"), py::arg("prompt"), py::arg("head"),
             py::arg("options"))
        .def("next", &Batch::next, "Write until a text ends; None where there is none.")
        .def("cancel", &Batch::cancel)
        .def_property_readonly("n_texts", [](const Batch& self) { return self.scheduler().n_texts(); })
        .def("counts", [](const Batch& self) {
            py::dict counts;
            counts["steps"] = self.scheduler().n_steps();
            counts["base_decodes"] = self.scheduler().base().n_decodes();
            counts["assistant_decodes"] = self.scheduler().assistant().n_decodes();
            return counts;
        });
}

}  // namespace colm::python
