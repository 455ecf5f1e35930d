#include "colm/stream.h"

#include <pybind11/stl.h>

#include <mutex>

#include "bindings.h"
#include "llama/pair.h"
#include "loading.h"
#include "steps.h"

namespace py = pybind11;

namespace colm::python {
namespace {

using llama::Pair;

// What `read` returns without the GIL.
template <typename Read>
auto computed(const Read& read) {
    auto result = [&] {
        const py::gil_scoped_release release;
        return read();
    }();
    // Ctrl-C arrived while computing or waiting: the poll saw it, and the texts were cancelled.
    if (PyErr_Occurred() != nullptr) throw py::error_already_set();
    return result;
}

// The texts of one reader, with the tokens of those that have not ended.
class Reader {
  public:
    Reader(Pair& pair, std::size_t n_parallel)
        : loop_(pair.loop(n_parallel)), stream_(loop_, signal_poll()), before_(counts_of_loop()) {
        for (std::size_t i = 0; i < pair.n_models(); ++i)
            names_.push_back(pair.name(static_cast<ExpertId>(i)));
    }

    std::shared_ptr<Text> add(const Pair& pair, std::vector<Token> prompt, const std::shared_ptr<Head>& head,
                              const GenerationOptions& options, Writing::OwnPrompts own_prompts) {
        const py::gil_scoped_release release;  // a grammar is built here
        return stream_.add(pair.write(std::move(prompt), head, options, std::move(own_prompts)),
                           options.lookahead);
    }

    py::object next(std::optional<double> timeout) {
        const auto event = computed([&] { return stream_.next(timeout); });
        if (!event || !event->step) return py::none();
        return to_tuple(event->step->step, event->step->text);
    }

    // All that next() would give of one text, without a pause between them.
    py::list rest(std::optional<double> timeout) {
        py::list steps;
        for (const Event& event : until_end(timeout))
            if (event.step) steps.append(to_tuple(event.step->step, event.step->text));
        return steps;
    }

    // Writes one text to its end. Meanwhile take() gives its tokens, from any thread: what writes needs no
    // GIL for them.
    void write(std::optional<double> timeout) {
        computed([&] {
            return stream_.until(
                [this](const Event& event) {
                    if (!event.step) return true;
                    const std::lock_guard<std::mutex> lock(taking_);
                    written_.push_back(*event.step);
                    return false;
                },
                timeout);
        });
    }

    // What write() has written since the last take().
    py::list take() {
        std::vector<StreamedStep> taken;
        {
            const std::lock_guard<std::mutex> lock(taking_);
            taken.swap(written_);
        }
        py::list steps;
        for (const StreamedStep& step : taken) steps.append(to_tuple(step.step, step.text));
        return steps;
    }

    // The next text that ends, and its tokens; None where there is none, or all were cancelled.
    py::object finished(std::optional<double> timeout) {
        for (Event& event : until_end(timeout)) {
            if (event.step) {
                steps_[event.text->id()].push_back(std::move(*event.step));
                continue;
            }
            py::list steps;
            for (const StreamedStep& step : steps_[event.text->id()])
                steps.append(to_tuple(step.step, step.text));
            steps_.erase(event.text->id());
            return py::make_tuple(event.text, steps);
        }
        return py::none();
    }

    void cancel() {
        const py::gil_scoped_release release;
        stream_.cancel();
    }
    void close() {
        const py::gil_scoped_release release;
        stream_.close();
    }

    // Since this reader began.
    py::dict counts() const {
        const std::vector<std::size_t> now = counts_of_loop();
        py::dict counts;
        for (std::size_t i = 0; i < now.size(); ++i)
            counts[py::str(i == 0 ? "steps" : names_[i - 1] + "_decodes")] = now[i] - before_[i];
        return counts;
    }

  private:
    std::vector<Event> until_end(std::optional<double> timeout) {
        return computed(
            [&] { return stream_.until([](const Event& event) { return !event.step; }, timeout); });
    }
    std::vector<std::size_t> counts_of_loop() const {
        std::vector<std::size_t> counts = {loop_->n_steps()};
        for (const auto& expert : loop_->experts()) counts.push_back(expert->n_decodes());
        return counts;
    }

    std::shared_ptr<SharedLoop> loop_;
    Stream stream_;
    std::vector<std::size_t> before_;
    std::vector<std::string> names_;  // of the models
    std::map<TextId, std::vector<StreamedStep>> steps_;
    std::mutex taking_;
    std::vector<StreamedStep> written_;
};

}  // namespace

void register_stream(py::module_& module) {
    py::class_<Text, std::shared_ptr<Text>>(module, "Text")
        .def_property_readonly("id", &Text::id)
        .def_property_readonly("begun", &Text::begun)
        .def_property_readonly("finish_reason",
                               [](const Text& self) { return reason_name(self.finish_reason()); })
        .def(
            "check",
            [](const Text& self) {
                if (self.error()) std::rethrow_exception(self.error());
            },
            "Raise the error that ended the text, where one did.")
        .def_property_readonly("n_prompt", [](const Text& self) { return self.sequence().n_prompt; })
        .def_property_readonly("tokens", [](const Text& self) { return self.sequence().tokens; })
        .def_property_readonly("end_step", [](const Text& self) { return to_tuple(self.end_step()); })
        .def("stats", [](const Text& self) { return to_dict(self.sequence().stats); })
        .def(
            "calls", [](const Text& self) { return to_list(self.sequence().calls); },
            "Every llama_decode made: (expert, position, n_tokens, outputs, hidden), in order.");

    py::class_<Reader, std::shared_ptr<Reader>>(module, "Stream")
        .def(py::init([](Pair& pair, std::size_t n_parallel) {
                 return std::make_shared<Reader>(pair, n_parallel);
             }),
             py::arg("pair"), py::arg("n_parallel") = 1)
        .def("add", &Reader::add, py::arg("pair"), py::arg("prompt"), py::arg("head"), py::arg("options"),
             py::arg("own_prompts") = Writing::OwnPrompts{},
             "`own_prompts`: of experts that read another prompt than the base.")
        .def("next", &Reader::next, py::arg("timeout") = py::none(),
             "The next token as a tuple, or None at the end of the text. Waits for a slot up to `timeout` "
             "seconds.")
        .def("rest", &Reader::rest, py::arg("timeout") = py::none(),
             "All that next() would give, without a pause between them.")
        .def("write", &Reader::write, py::arg("timeout") = py::none(),
             "Write a text to its end, while take() gives its tokens.")
        .def("take", &Reader::take, "What write() has written since the last call, as next() would give it.")
        .def("finished", &Reader::finished, py::arg("timeout") = py::none(),
             "Write until a text ends: (Text, its tokens), or None where there is none.")
        .def("cancel", &Reader::cancel)
        .def("close", &Reader::close, "End the texts where they stand.")
        .def("counts", &Reader::counts);
}

}  // namespace colm::python
