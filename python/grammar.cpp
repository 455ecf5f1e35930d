#include <memory>
#include <optional>
#include <string_view>

#include "bindings.h"
#include "colm/grammar_matcher.h"

namespace py = pybind11;

namespace colm::python {
namespace {

// A grammar by itself, without a vocabulary: it reads text as if each byte were a token.
class TextGrammar {
  public:
    explicit TextGrammar(const std::string& gbnf)
        : grammar_(std::make_shared<const Grammar>(
              Grammar::parse(gbnf, [](const std::string&) { return kNoToken; }, 0))) {}

    bool begins(std::string_view text) const { return read(text).has_value(); }
    bool accepts(std::string_view text) const {
        const std::optional<GrammarMatcher> matcher = read(text);
        return matcher && matcher->may_end();
    }

  private:
    std::optional<GrammarMatcher> read(std::string_view text) const {
        const py::gil_scoped_release release;
        GrammarMatcher matcher(grammar_);
        for (std::size_t i = 0; i < text.size(); ++i) {
            matcher.begin_step();
            if (!matcher.accept(kNoToken, text.substr(i, 1))) return std::nullopt;
        }
        return matcher;
    }

    std::shared_ptr<const Grammar> grammar_;
};

}  // namespace

void register_grammar(py::module_& module) {
    py::class_<TextGrammar>(module, "Grammar")
        .def(py::init<const std::string&>(), py::arg("gbnf"), py::call_guard<py::gil_scoped_release>())
        .def("begins", &TextGrammar::begins, py::arg("text"), "Whether some text of the grammar begins so.")
        .def("accepts", &TextGrammar::accepts, py::arg("text"), "Whether this is a text of the grammar.");
}

}  // namespace colm::python
