// One register function per bound noun; module.cpp calls them all.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

namespace colm::python {

// Text out of files and from llama.cpp need not be UTF-8.
inline pybind11::str to_str(const std::string& text) {
    return pybind11::reinterpret_steal<pybind11::str>(
        PyUnicode_DecodeUTF8(text.data(), static_cast<pybind11::ssize_t>(text.size()), "replace"));
}

// Sets OutOfMemory as Python's error.
void raise_out_of_memory();
void register_errors();
void register_inside(pybind11::module_& module);
void register_backend(pybind11::module_& module);
void register_options(pybind11::module_& module);
void register_head(pybind11::module_& module);
void register_grammar(pybind11::module_& module);
void register_stream(pybind11::module_& module);
void register_pair(pybind11::module_& module);
void register_scoring(pybind11::module_& module);
void register_session(pybind11::module_& module);
void register_text_reader(pybind11::module_& module);
void register_vocabulary(pybind11::module_& module);

}  // namespace colm::python
