#include "steps.h"

#include <pybind11/stl.h>

#include <cmath>

namespace py = pybind11;

namespace colm::python {
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

py::tuple to_tuple(const Step& step, const std::string& text) {
    py::list top;
    for (const TopLogprob& entry : step.top_logprobs) top.append(py::make_tuple(entry.token, entry.logprob));
    const py::object defer_logit =
        std::isnan(step.defer_logit) ? py::object(py::none()) : py::float_(step.defer_logit);
    return py::make_tuple(step.token, text, step.expert, defer_logit, step.threshold, step.logprob, top);
}

py::object to_tuple(const std::optional<Step>& step) {
    return step ? py::object(to_tuple(*step, "")) : py::none();
}

py::dict to_dict(const Stats& stats) {
    py::dict result;
    result["n_deferred"] = stats.n_deferred;
    result["lookahead"] = stats.lookahead;
    result["n_drafted"] = stats.n_drafted;
    result["n_accepted"] = stats.n_accepted;
    result["n_waited"] = stats.n_waited;
    result["prefill_s"] = stats.prefill_s;
    result["decode_s"] = stats.decode_s;
    py::list work;
    for (const Work& of : stats.work)
        work.append(py::make_tuple(
            of.calls, of.tokens, of.tokens_read, of.seconds, of.tokens_reread, of.failures, of.n_named,
            of.n_truncated == 0 ? 0.0 : of.tail / static_cast<double>(of.n_truncated)));
    result["work"] = work;
    return result;
}

py::list to_list(const std::vector<DecodeCall>& calls) {
    py::list result;
    for (const DecodeCall& call : calls)
        result.append(py::make_tuple(call.expert, call.position, call.n_tokens, call.outputs, call.hidden));
    return result;
}

}  // namespace colm::python
