#include "llama/pair.h"

#include <pybind11/stl.h>

#include "bindings.h"
#include "loading.h"
#include "remote.h"

namespace py = pybind11;

namespace colm::python {
namespace {

using llama::Pair;

// Asks Python, from whatever thread computes.
Pair::Room room_of(const py::object& check) {
    if (check.is_none()) return {};
    const std::shared_ptr<py::object> held(new py::object(check), [](py::object* object) {
        const py::gil_scoped_acquire acquire;
        delete object;
    });
    return [held](ExpertId expert, std::size_t n_slots) {
        const py::gil_scoped_acquire acquire;
        try {
            return (*held)(expert, n_slots).cast<std::uint64_t>();
        } catch (const py::error_already_set& error) {
            const py::object type = py::module_::import("colm_cpp.errors").attr("NotEnoughMemory");
            if (!error.matches(type)) throw;
            const py::object& raised = error.value();
            throw NotEnoughMemory(py::str(raised), raised.attr("expert").cast<std::string>(),
                                  raised.attr("needed").cast<std::int64_t>(),
                                  raised.attr("available").cast<std::int64_t>());
        }
    };
}

std::shared_ptr<Pair> load(const NamedOptions& members, const py::object& progress, std::size_t n_parallel,
                           std::size_t cache_bytes, const py::object& room, const Remotes& remotes) {
    const Pair::Room asked = room_of(room);
    const std::vector<llama::RemoteMember> elsewhere = remote_members(remotes);
    return load_models(members, progress, [&](const std::vector<llama::Member>& models) {
        return std::make_shared<Pair>(models, n_parallel, cache_bytes, asked, elsewhere);
    });
}

}  // namespace

void register_pair(py::module_& module) {
    module.def("stop_loading", &stop_loading, "End the loads in progress and refuse new ones.");
    py::class_<Pair, std::shared_ptr<Pair>>(module, "Pair")
        .def(py::init(&load), py::arg("members"), py::arg("progress") = py::none(), py::arg("n_parallel") = 1,
             py::arg("cache_bytes") = 0, py::arg("room") = py::none(), py::arg("remotes") = Remotes{},
             "The models by their names, the base first. `room`: takes the number of an expert and of slots; "
             "returns the bytes that such a context is estimated to take, or raises NotEnoughMemory. "
             "`remotes`: "
             "experts elsewhere, each a name, its number among all models, RemoteModel.likeliest, n_ctx, the "
             "most counts of a call, its ids or 0, and whether texts go on without it where it fails.")
        .def("stop_remotes", &Pair::stop_remotes, py::call_guard<py::gil_scoped_release>(),
             "Wait for the calls of experts elsewhere, and end their threads.")
        .def("has_loop", &Pair::has_loop, py::arg("n_parallel"),
             "Whether a stream of so many texts at a time needs no further context.")
        .def(
            "token_head",
            [](const Pair& self, const std::string& text) {
                return std::const_pointer_cast<Head>(self.token_head(text));
            },
            py::arg("text"))
        .def("check_head", &Pair::check_head, py::arg("head"))
        .def("tokenize", &Pair::tokenize, py::arg("text"), py::arg("add_special"), py::arg("parse_special"),
             py::arg("expert") = kBase, py::call_guard<py::gil_scoped_release>())
        .def("detokenize", &Pair::detokenize, py::arg("tokens"), py::arg("special"),
             py::arg("expert") = kBase)
        .def(
            "replay",
            [](Pair& self, const std::vector<Token>& tokens,
               const std::vector<std::tuple<ExpertId, int, int, bool, bool>>& calls, std::size_t n_texts) {
                std::vector<DecodeCall> schedule;
                for (const auto& [expert, position, n_tokens, outputs, hidden] : calls)
                    schedule.push_back({expert, position, n_tokens, outputs, hidden});
                Interrupt interrupt(signal_poll());
                try {
                    const py::gil_scoped_release release;
                    return self.replay(tokens, schedule, n_texts, interrupt);
                } catch (const Cancelled&) {
                    throw py::error_already_set();  // Ctrl-C; the poll has set it
                }
            },
            py::arg("tokens"), py::arg("calls"), py::arg("n_texts") = 1,
            "Make these decodes, as Text.calls() lists them, each of so many texts at once, and return the "
            "seconds of each.")
        .def("reset", &Pair::forget, py::call_guard<py::gil_scoped_release>())
        .def_property_readonly("n_ctx", &Pair::n_ctx)
        .def_property_readonly(
            "vocabularies", [](const Pair& self) { return self.vocabularies().numbers(); },
            "Of each model, in the order of names: equal numbers are one vocabulary, the base's is 0.")
        .def(
            "overlap",
            [](const Pair& self, ExpertId expert) {
                const auto found = self.vocabularies().overlap(kBase, expert);
                return std::make_tuple(found.both, found.one, found.other);
            },
            py::arg("expert"), py::call_guard<py::gil_scoped_release>(),
            "How many texts of tokens both the base and that model have, the base has, that model has.")
        .def_property_readonly(
            "n_ids",
            [](const Pair& self) {
                std::vector<std::size_t> n;
                for (std::size_t i = 0; i < self.n_models(); ++i)
                    n.push_back(self.vocabularies().n_ids(static_cast<ExpertId>(i)));
                return n;
            },
            "Of each model: how many ids, from 0, all models with its vocabulary share.")
        .def_property_readonly("vocab_fingerprint", &Pair::vocab_fingerprint)
        .def_property_readonly(
            "names",
            [](const Pair& self) {
                std::vector<std::string> names;
                for (std::size_t i = 0; i < self.n_models(); ++i)
                    names.push_back(self.name(static_cast<ExpertId>(i)));
                return names;
            },
            "What the models are called, the base first.")
        .def(
            "facts",
            [](const Pair& self) {
                py::list facts;
                for (std::size_t i = 0; i < self.n_models(); ++i)
                    facts.append(describe(self.model(static_cast<ExpertId>(i))));
                return facts;
            },
            "Of each model, in the order of names.");
}

}  // namespace colm::python
