// C++ errors become the classes of colm_cpp.errors, with the numbers of the message as attributes.
#include <exception>
#include <new>

#include "bindings.h"
#include "colm/error.h"

namespace py = pybind11;

namespace colm::python {

void raise_out_of_memory() {
    const py::object type = py::module_::import("colm_cpp.errors").attr("OutOfMemory");
    PyErr_SetString(type.ptr(),
                    "the system gives this process no more memory; give a shorter text, a smaller n_ctx or "
                    "fewer texts at once, or raise its limit (ulimit -v, or that of its container)");
}

void register_errors() {
    py::register_local_exception_translator([](std::exception_ptr pointer) {
        if (!pointer) return;
        try {
            std::rethrow_exception(pointer);
        } catch (const Error& error) {
            const py::object type = py::module_::import("colm_cpp.errors").attr(error.kind());
            const py::object exception = type(to_str(error.what()));
            for (const auto& [name, value] : error.fields()) {
                if (const auto* integer = std::get_if<std::int64_t>(&value))
                    exception.attr(name.c_str()) = *integer;
                else if (const auto* real = std::get_if<double>(&value))
                    exception.attr(name.c_str()) = *real;
                else
                    exception.attr(name.c_str()) = to_str(std::get<std::string>(value));
            }
            PyErr_SetObject(type.ptr(), exception.ptr());
        } catch (const std::bad_alloc&) {
            raise_out_of_memory();
        }
    });
}

}  // namespace colm::python
