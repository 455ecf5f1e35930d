#include "bindings.h"

PYBIND11_MODULE(_core, module) {
    module.doc() = "The C++ engine of colm_cpp. Private: use the names in colm_cpp.";
    colm::python::register_errors();
    colm::python::register_inside(module);
    colm::python::register_backend(module);
    colm::python::register_options(module);
    colm::python::register_head(module);
    colm::python::register_grammar(module);
    colm::python::register_pair(module);
    colm::python::register_stream(module);
    colm::python::register_scoring(module);
    colm::python::register_session(module);
    colm::python::register_text_reader(module);
    colm::python::register_vocabulary(module);
}
