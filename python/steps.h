// What a text was written with, for Python.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "bindings.h"
#include "colm/sequence.h"

namespace colm::python {

// "" for a text that goes on.
const char* reason_name(FinishReason reason);
// (id, text, source, defer_logit or None, threshold, logprob, [(id, logprob), ...])
pybind11::tuple to_tuple(const Step& step, const std::string& text);
// The step of a token without text, or None.
pybind11::object to_tuple(const std::optional<Step>& step);
// `work`: of each expert, as far as any did something: (calls, tokens, tokens_read, seconds).
pybind11::dict to_dict(const Stats& stats);
// (model, position, n_tokens, outputs, hidden) of each decode.
pybind11::list to_list(const std::vector<DecodeCall>& calls);

}  // namespace colm::python
