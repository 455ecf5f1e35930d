#include "llama/pair.h"

#include <pybind11/stl.h>

#include <atomic>
#include <exception>

#include "bindings.h"
#include "colm/error.h"

namespace py = pybind11;

namespace colm::python {
namespace {

using llama::LlamaModel;
using llama::ModelOptions;
using llama::Pair;

// The interpreter is ending, and loads in other threads must come to an end before it does.
std::atomic<bool> exiting{false};

// Python runs signal handlers on its main thread only, and only while that thread holds the GIL.
bool on_main_thread() {
    const py::module_ threading = py::module_::import("threading");
    return threading.attr("get_ident")().equal(threading.attr("main_thread")().attr("ident"));
}

std::function<bool()> signal_poll() {
    if (!on_main_thread()) return {};
    return [main_thread = PyThread_get_thread_ident()] {
        // A generation that began on the main thread may be continued on another.
        if (PyThread_get_thread_ident() != main_thread) return false;
        const py::gil_scoped_acquire acquire;
        return PyErr_CheckSignals() != 0;
    };
}

std::shared_ptr<Pair> load(ModelOptions base, ModelOptions assistant, const py::object& progress) {
    // What the callback raised has to cross llama.cpp's C code: it is kept here, and the load told to stop.
    std::exception_ptr raised;
    bool stopped = false;
    const auto report = [&](double done) {
        const py::gil_scoped_acquire acquire;
        try {
            if (exiting.load()) stopped = true;
            if (PyErr_CheckSignals() != 0) throw py::error_already_set();
            if (!stopped && !progress.is_none()) stopped = progress(done).is(py::bool_(false));
        } catch (...) {
            raised = std::current_exception();
        }
        return !stopped && !raised;
    };
    base.progress = [&](float fraction) { return report(0.5 * fraction); };
    assistant.progress = [&](float fraction) { return report(0.5 + 0.5 * fraction); };
    try {
        std::shared_ptr<Pair> pair;
        {
            const py::gil_scoped_release release;
            pair = std::make_shared<Pair>(base, assistant);
        }
        if (raised) std::rethrow_exception(raised);
        return pair;
    } catch (const Error&) {
        if (raised) std::rethrow_exception(raised);
        if (exiting.load()) throw PairClosed();
        if (stopped) throw LoadError("the progress callback returned False, so loading was stopped");
        throw;
    }
}

py::dict describe(const LlamaModel& model) {
    const Vocabulary& vocabulary = model.vocabulary();
    const auto text_of = [&](Token token) -> py::object {
        if (token == kNoToken) return py::none();
        return to_str(vocabulary.texts[static_cast<std::size_t>(token)]);
    };
    py::dict result;
    result["path"] = py::reinterpret_steal<py::str>(
        PyUnicode_DecodeFSDefaultAndSize(model.path().data(), static_cast<py::ssize_t>(model.path().size())));
    result["description"] = to_str(model.description());
    result["name"] = to_str(model.metadata("general.name"));
    result["n_vocab"] = model.n_vocab();
    result["n_embd"] = model.n_embd();
    result["n_ctx"] = model.n_ctx();
    result["n_batch"] = model.n_batch();
    result["n_ctx_train"] = model.n_ctx_train();
    result["can_rewind"] = model.can_rewind();
    result["vocab_type"] = vocabulary.type;
    result["bos_token"] = text_of(vocabulary.bos);
    result["eos_token"] = text_of(vocabulary.eos);
    result["add_bos"] = vocabulary.add_bos;
    result["eog_tokens"] = vocabulary.eog;
    result["chat_template"] = to_str(model.chat_template());
    result["vocab_fingerprint"] = fingerprint(vocabulary);
    return result;
}

}  // namespace

void register_pair(py::module_& module) {
    module.def("stop_loading", [] { exiting.store(true); }, "End the loads in progress and refuse new ones.");
    py::class_<Pair, std::shared_ptr<Pair>>(module, "Pair")
        .def(py::init(&load), py::arg("base"), py::arg("assistant"), py::arg("progress") = py::none())
        .def(
            "start",
            [](const Pair& self, std::vector<Token> prompt, const std::shared_ptr<Head>& head,
               const GenerationOptions& options) {
                return self.start(std::move(prompt), head, options, signal_poll());
            },
            py::arg("prompt"), py::arg("head"), py::arg("options"))
        .def(
            "token_head",
            [](const Pair& self, const std::string& text) {
                return std::const_pointer_cast<Head>(self.token_head(text));
            },
            py::arg("text"))
        .def("check_head", &Pair::check_head, py::arg("head"))
        .def("tokenize", &Pair::tokenize, py::arg("text"), py::arg("add_special"), py::arg("parse_special"),
             py::call_guard<py::gil_scoped_release>())
        .def("detokenize", &Pair::detokenize, py::arg("tokens"), py::arg("special"))
        .def(
            "reset", [](Pair& self) { self.engine().reset(); }, py::call_guard<py::gil_scoped_release>())
        .def_property_readonly("n_ctx", [](const Pair& self) { return self.engine().n_ctx(); })
        .def_property_readonly("n_shared", &Pair::n_shared)
        .def_property_readonly("vocab_fingerprint", &Pair::vocab_fingerprint)
        .def_property_readonly("base", [](const Pair& self) { return describe(self.base()); })
        .def_property_readonly("assistant", [](const Pair& self) { return describe(self.assistant()); });
}

}  // namespace colm::python
