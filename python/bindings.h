// One register function per bound noun; module.cpp calls them all.
#pragma once

#include <pybind11/pybind11.h>

namespace colm::python {

void register_errors();
void register_backend(pybind11::module_& module);
void register_options(pybind11::module_& module);
void register_head(pybind11::module_& module);
void register_generation(pybind11::module_& module);
void register_pair(pybind11::module_& module);

}  // namespace colm::python
