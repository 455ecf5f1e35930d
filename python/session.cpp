// What a pair knows of texts, for Python to write to a file and to read from one.
#include <pybind11/stl.h>

#include <cstring>

#include "bindings.h"
#include "llama/pair.h"

namespace py = pybind11;

namespace colm::python {
namespace {

using llama::Pair;

py::memoryview view(const void* data, std::size_t n_bytes) {
    return py::memoryview::from_memory(data, static_cast<py::ssize_t>(n_bytes));
}

Bytes copy(const py::buffer& buffer) {
    const py::buffer_info info = buffer.request();
    const auto* begin = static_cast<const std::uint8_t*>(info.ptr);
    return {begin, begin + info.size * info.itemsize};
}

std::shared_ptr<SavedSlot> make_slot(const std::vector<std::size_t>& counts, bool goes_back,
                                     const std::vector<py::buffer>& blobs) {
    if (blobs.size() != counts.size() + 2) throw SessionError("it has parts that do not belong together");
    auto slot = std::make_shared<SavedSlot>();
    const Bytes tokens = copy(blobs[0]);
    slot->held.resize(tokens.size() / sizeof(Token));
    if (!slot->held.empty()) std::memcpy(slot->held.data(), tokens.data(), slot->held.size() * sizeof(Token));
    slot->state = copy(blobs[1]);
    for (std::size_t i = 0; i < counts.size(); ++i)
        slot->checkpoints.push_back({counts[i], std::make_shared<const Bytes>(copy(blobs[i + 2]))});
    slot->goes_back = goes_back;
    return slot;
}

// Borrowed from `slot`.
std::vector<py::memoryview> blobs_of(const SavedSlot& slot) {
    std::vector<py::memoryview> blobs = {view(slot.held.data(), slot.held.size() * sizeof(Token)),
                                         view(slot.state.data(), slot.state.size())};
    for (const Checkpoint& checkpoint : slot.checkpoints)
        blobs.push_back(view(checkpoint.state->data(), checkpoint.state->size()));
    return blobs;
}

using Texts = std::vector<std::pair<std::optional<std::size_t>, std::vector<std::shared_ptr<SavedSlot>>>>;

Texts known_texts(Pair& pair) {
    Texts texts;
    for (const KnownText& text : pair.known_texts()) {
        texts.emplace_back(text.slot, std::vector<std::shared_ptr<SavedSlot>>());
        for (const auto& part : text.parts)
            texts.back().second.push_back(std::const_pointer_cast<SavedSlot>(part));
    }
    return texts;
}

void know_texts(Pair& pair, const Texts& texts) {
    std::vector<KnownText> known;
    for (const auto& [slot, parts] : texts) known.push_back({slot, {parts.begin(), parts.end()}});
    pair.know_texts(known);
}

// What the bytes of a state depend on, beside the weights.
py::dict state_options(const llama::LlamaModel& model) {
    const llama::ModelOptions& options = model.options();
    py::dict result;
    result["type_k"] = options.type_k;
    result["type_v"] = options.type_v;
    result["flash_attn"] = options.flash_attn;
    result["swa_full"] = options.swa_full;
    result["rope_freq_base"] = options.rope_freq_base;
    result["rope_freq_scale"] = options.rope_freq_scale;
    result["batch_invariant"] = options.batch_invariant;
    return result;
}

}  // namespace

void register_session(py::module_& module) {
    py::class_<SavedSlot, std::shared_ptr<SavedSlot>>(module, "SavedSlot")
        .def(py::init(&make_slot), py::arg("counts"), py::arg("goes_back"), py::arg("blobs"))
        .def_property_readonly("goes_back", [](const SavedSlot& self) { return self.goes_back; })
        .def_property_readonly(
            "counts",
            [](const SavedSlot& self) {
                std::vector<std::size_t> counts;
                for (const Checkpoint& checkpoint : self.checkpoints) counts.push_back(checkpoint.n_tokens);
                return counts;
            },
            "How many tokens precede each checkpoint.")
        .def("blobs", &blobs_of, "Tokens (int32), state, and the checkpoints; valid as long as this object.");
    module.def("known_texts", &known_texts, py::arg("pair"), py::call_guard<py::gil_scoped_release>(),
               "What slots hold and what is saved of texts: of each its slot, or None, and by model what is "
               "known.");
    module.def("know_texts", &know_texts, py::arg("pair"), py::arg("texts"),
               py::call_guard<py::gil_scoped_release>(), "Forget every text, and know these instead.");
    module.def(
        "state_options",
        [](Pair& pair) {
            py::dict result;
            result["n_parallel"] = pair.loop()->n_slots();
            py::list models;
            for (std::size_t i = 0; i < pair.n_models(); ++i)
                models.append(state_options(pair.model(static_cast<ExpertId>(i))));
            result["models"] = models;
            return result;
        },
        py::arg("pair"));
}

}  // namespace colm::python
