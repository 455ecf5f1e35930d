#include "colm/options.h"

#include <pybind11/stl.h>

#include "bindings.h"
#include "llama/model_options.h"
#include "llama/pair.h"

namespace py = pybind11;

namespace colm::python {

namespace {

// Values of an option, as Python has them: an enum by its name, all else as pybind11 converts it.
template <typename Value, typename Range>
py::object to_python(const Value& value, const Range& range) {
    if constexpr (std::is_enum_v<Value>)
        return py::str(range.all[static_cast<std::size_t>(value)]);
    else
        return py::cast(value);
}

template <typename Value, typename Range>
Value from_python(const py::handle& value, const Range& range) {
    if constexpr (std::is_enum_v<Value>) {
        const auto name = value.cast<std::string>();
        for (std::size_t i = 0; i < range.all.size(); ++i)
            if (name == range.all[i]) return static_cast<Value>(i);
        throw py::value_error("there is no " + name);
    } else {
        return value.cast<Value>();
    }
}

// Options with these values, and defaults for the rest.
template <typename Options>
Options made_of(const py::dict& values) {
    Options options;
    std::size_t n_known = 0;
    Options::each(options, [&](const char* name, auto& field, const auto& range) {
        if (!values.contains(name)) return;
        ++n_known;
        field = from_python<std::decay_t<decltype(field)>>(values[name], range);
    });
    if (n_known != values.size()) throw py::type_error("a name is no option");
    return options;
}

// All options by name.
template <typename Options>
py::dict values_of(const Options& options) {
    py::dict values;
    Options::each(options, [&](const char* name, const auto& field, const auto& range) {
        if constexpr (std::is_same_v<std::decay_t<decltype(field)>, std::string>)
            values[name] = py::bytes(field);  // a path need not be Unicode
        else
            values[name] = to_python(field, range);
    });
    return values;
}

// What each option may be: (least, most, whether the least itself is too small), the names, or None.
template <typename Options>
py::dict ranges_of() {
    py::dict ranges;
    const Options options{};
    Options::each(options, [&](const char* name, const auto&, const auto& range) {
        using Kind = std::decay_t<decltype(range)>;
        if constexpr (std::is_same_v<Kind, Range>)
            ranges[name] = py::make_tuple(range.least, range.most, range.is_open);
        else if constexpr (std::is_same_v<Kind, NoRange>)
            ranges[name] = py::none();
        else
            ranges[name] = py::cast(range.all);
    });
    return ranges;
}

template <typename Options>
py::class_<Options> register_table(py::module_& module, const char* name) {
    return py::class_<Options>(module, name)
        .def_property_readonly("values", &values_of<Options>, "All options by name.")
        .def_static("ranges", &ranges_of<Options>,
                    "What each may be: (least, most, is_open), names, or None.");
}

}  // namespace

void register_options(py::module_& module) {
    register_table<llama::ModelOptions>(module, "ModelOptions")
        .def(py::init(&made_of<llama::ModelOptions>), py::arg("values"));
    register_table<GenerationOptions>(module, "GenerationOptions")
        .def(py::init([](const py::dict& values) {
                 GenerationOptions options = made_of<GenerationOptions>(values);
                 llama::check_options(options);
                 return options;
             }),
             py::arg("values"), "Raise OptionError for an option outside its range, whatever the pair.")
        .def_property_readonly("seed", [](const GenerationOptions& self) { return self.sampling.seed; });
}

}  // namespace colm::python
