// Who is inside the extension, so that the interpreter does not end under them, and a fork does not go
// unnoticed. In C++, because Python's Ctrl-C may come between any two instructions of Python: a count kept
// there is lost sometimes.
#include <atomic>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>

#include "bindings.h"

namespace py = pybind11;

namespace colm::python {
namespace {

class Inside {
  public:
    void enter() {
        check();
        ++n_inside_;
        ever_ = true;
    }
    void leave() { --n_inside_; }

    // Raises what refuse() was given.
    void check() const {
        if (refusal_.is_none()) return;
        PyErr_SetObject(refusal_.ptr(), message_.ptr());
        throw py::error_already_set();
    }
    void refuse(py::object error, py::str message) {
        refusal_ = std::move(error);
        message_ = std::move(message);
    }

    std::size_t count() const { return n_inside_; }
    bool ever() const { return ever_; }
    // In a forked child, where the other threads are no more.
    void forget() { n_inside_ = 0; }

  private:
    std::atomic<std::size_t> n_inside_{0};
    bool ever_ = false;
    py::object refusal_ = py::none();
    py::object message_ = py::none();
};

}  // namespace

void register_inside(py::module_& module) {
    py::class_<Inside>(module, "Inside")
        .def(py::init<>())
        .def("__enter__", &Inside::enter)
        .def("__exit__",
             [](Inside& self, const py::args& error) {
                 self.leave();
                 // What Python itself could not allocate on the way in or out; bad_alloc is translated
                 // already.
                 if (!error.empty() && py::object(error[0]).ptr() == PyExc_MemoryError) {
                     raise_out_of_memory();
                     throw py::error_already_set();
                 }
             })
        .def("check", &Inside::check, "Raise the error that refuse() was given, if it was.")
        .def("refuse", &Inside::refuse, py::arg("error"), py::arg("message"), "Let nobody in any more.")
        .def("forget", &Inside::forget, "In a forked child: nobody is inside.")
        .def_property_readonly("count", &Inside::count)
        .def_property_readonly("ever", &Inside::ever, "Whether anybody was ever inside.");
}

}  // namespace colm::python
