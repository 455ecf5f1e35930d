// Loading models for Python: progress, Ctrl-C, the end of the interpreter.
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings.h"
#include "colm/error.h"
#include "llama/members.h"
#include "llama/model.h"
#include "llama/model_file.h"

namespace colm::python {

// Ends the loads in progress and refuses new ones: the interpreter is ending.
void stop_loading();
bool is_exiting();

// Asks Python's signal handlers whether to stop; never, off the main thread, where Python runs none.
std::function<bool()> signal_poll();

// Facts about a loaded model, and about a file whose vocabulary alone was read.
pybind11::dict describe(const llama::LlamaModel& model);
pybind11::dict describe(const llama::VocabularyFile& file);

using NamedOptions = std::vector<std::pair<std::string, llama::ModelOptions>>;

// What `make` makes of models, which it loads in this order. `progress` is called with the loaded fraction or
// None; returning False stops the load.
template <typename Make>
auto load_models(const NamedOptions& named, const pybind11::object& progress, const Make& make) {
    std::vector<llama::Member> models;
    for (const auto& [name, options] : named) models.push_back({name, options});
    // What the callback raised has to cross llama.cpp's C code: it is kept here, and the load told to stop.
    std::exception_ptr raised;
    bool stopped = false;
    const auto report = [&](double done) {
        const pybind11::gil_scoped_acquire acquire;
        try {
            if (is_exiting()) stopped = true;
            if (PyErr_CheckSignals() != 0) throw pybind11::error_already_set();
            if (!stopped && !progress.is_none()) stopped = progress(done).is(pybind11::bool_(false));
        } catch (...) {
            raised = std::current_exception();
        }
        return !stopped && !raised;
    };
    const auto n = static_cast<double>(models.size());
    for (std::size_t i = 0; i < models.size(); ++i)
        models[i].options.progress = [&report, i, n](float fraction) {
            return report((static_cast<double>(i) + static_cast<double>(fraction)) / n);
        };
    try {
        auto made = [&] {
            const pybind11::gil_scoped_release release;
            return make(models);
        }();
        if (raised) std::rethrow_exception(raised);
        return made;
    } catch (const Error&) {
        if (raised) std::rethrow_exception(raised);
        if (is_exiting()) throw PairClosed();
        if (stopped) throw LoadError("the progress callback returned False, so loading was stopped");
        throw;
    }
}

}  // namespace colm::python
