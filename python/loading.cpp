#include "loading.h"

#include <pybind11/stl.h>

#include <atomic>

namespace py = pybind11;

namespace colm::python {
namespace {

// The interpreter is ending, and loads in other threads must come to an end before it does.
std::atomic<bool> exiting{false};

py::str to_path(const std::string& bytes) {
    return py::reinterpret_steal<py::str>(
        PyUnicode_DecodeFSDefaultAndSize(bytes.data(), static_cast<py::ssize_t>(bytes.size())));
}

}  // namespace

void stop_loading() { exiting.store(true); }
bool is_exiting() { return exiting.load(); }

std::function<bool()> signal_poll() {
    // Python runs signal handlers on its main thread only, and only while that thread holds the GIL. A
    // generation may be begun on one thread and continued on another.
    const py::object main_thread = py::module_::import("threading").attr("main_thread")();
    return [ident = main_thread.attr("ident").cast<unsigned long>()] {
        if (PyThread_get_thread_ident() != ident) return false;
        const py::gil_scoped_acquire acquire;
        return PyErr_CheckSignals() != 0;
    };
}

namespace {

// What prompts are made with.
py::dict describe(const std::string& path, const Vocabulary& vocabulary, const std::string& chat_template) {
    const auto text_of = [&](Token token) -> py::object {
        if (token == kNoToken) return py::none();
        return to_str(vocabulary.texts[static_cast<std::size_t>(token)]);
    };
    py::dict result;
    result["path"] = to_path(path);
    result["n_vocab"] = vocabulary.size();
    result["vocab_type"] = vocabulary.type;
    result["bos_token"] = text_of(vocabulary.bos);
    result["eos_token"] = text_of(vocabulary.eos);
    result["add_bos"] = vocabulary.add_bos;
    result["eog_tokens"] = vocabulary.eog;
    result["chat_template"] = to_str(chat_template);
    result["vocab_fingerprint"] = fingerprint(vocabulary);
    return result;
}

}  // namespace

py::dict describe(const llama::VocabularyFile& file) {
    return describe(file.path(), file.vocabulary(), file.chat_template());
}

py::dict describe(const llama::LlamaModel& model) {
    py::dict result = describe(model.path(), model.vocabulary(), model.chat_template());
    result["description"] = to_str(model.description());
    result["name"] = to_str(model.metadata("general.name"));
    result["n_embd"] = model.n_embd();
    result["n_ctx"] = model.n_ctx();
    result["n_batch"] = model.n_batch();
    result["n_ubatch"] = model.n_ubatch();
    result["n_ctx_train"] = model.n_ctx_train();
    result["can_rewind"] = model.can_rewind();
    py::list adapters;
    for (const auto& [path, scale, digest] : model.adapters()) {
        py::dict adapter;
        adapter["path"] = to_path(path);
        adapter["scale"] = scale;
        adapter["sha256"] = digest;
        adapters.append(adapter);
    }
    result["adapters"] = adapters;
    return result;
}

}  // namespace colm::python
