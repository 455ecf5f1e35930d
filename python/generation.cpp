#include "colm/generation.h"

#include <pybind11/stl.h>

#include <cmath>

#include "bindings.h"

namespace py = pybind11;

namespace colm::python {
namespace {

const char* source_name(Source source) { return source == Source::base ? "base" : "assistant"; }

const char* reason_name(FinishReason reason) {
    switch (reason) {
        case FinishReason::none:
            return "";
        case FinishReason::eos:
            return "eos";
        case FinishReason::stop:
            return "stop";
        case FinishReason::length:
            return "length";
        case FinishReason::cancelled:
            return "cancelled";
        case FinishReason::failed:
            return "failed";
    }
    return "";
}

// (id, text, source, defer_logit, threshold, logprob, [(id, logprob), ...])
py::tuple to_tuple(const Step& step, const std::string& text) {
    py::list top;
    for (const TopLogprob& entry : step.top_logprobs) top.append(py::make_tuple(entry.token, entry.logprob));
    return py::make_tuple(step.token, text, source_name(step.source), step.defer_logit, step.threshold,
                          step.logprob, top);
}

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

py::dict stats_of(const Generation& generation) {
    const Stats stats = generation.sequence().stats;
    py::dict result;
    result["n_deferred"] = stats.n_deferred;
    result["base_steps"] = stats.base_steps;
    result["assistant_calls"] = stats.assistant_calls;
    result["base_tokens_read"] = stats.base_tokens_read;
    result["assistant_tokens_read"] = stats.assistant_tokens_read;
    result["prefill_s"] = stats.prefill_s;
    result["decode_s"] = stats.decode_s;
    return result;
}

py::list calls_of(const Generation& generation) {
    py::list calls;
    const Sequence sequence = generation.sequence();
    for (const DecodeCall& call : sequence.calls)
        calls.append(
            py::make_tuple(source_name(call.model), call.position, call.n_tokens, call.outputs, call.hidden));
    return calls;
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
        .def_property_readonly("end_step",
                               [](const Generation& self) -> py::object {
                                   const std::optional<Step> step = self.end_step();
                                   return step ? py::object(to_tuple(*step, "")) : py::none();
                               })
        .def("stats", &stats_of)
        .def("calls", &calls_of,
             "Every llama_decode made: (model, position, n_tokens, outputs, hidden), in order.");
}

}  // namespace colm::python
