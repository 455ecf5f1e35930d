#include "llama/backend.h"

#include <pybind11/stl.h>

#include "bindings.h"
#include "llama/gguf_file.h"
#include "llama/rpc.h"

namespace py = pybind11;

namespace colm::python {

void register_backend(py::module_& module) {
    module.attr("BUILT_FOR_LLAMA_CPP_PYTHON") = COLM_LLAMA_CPP_PYTHON_VERSION;
    module.attr("BUILT_FOR_LLAMA_VERSION") = COLM_LLAMA_VERSION;

    module.def("llama_version", &llama::version, "Version of the llama.cpp that this process loaded.");
    module.def("init_backend", &llama::init_backend, "Initialise llama.cpp and take over its log.");
    module.def("set_min_log_level", &llama::set_min_log_level, py::arg("level"));
    module.def("drain_log", [] {
        py::list lines;
        for (const llama::LogLine& line : llama::drain_log())
            lines.append(py::make_tuple(line.level, to_str(line.text)));
        return lines;
    });
    module.def("devices", [] {
        py::list all;
        for (const llama::Device& device : llama::devices()) {
            py::dict entry;
            entry["name"] = device.name;
            entry["description"] = device.description;
            entry["gpu"] = device.gpu;
            entry["free_bytes"] = device.free_bytes;
            entry["total_bytes"] = device.total_bytes;
            all.append(entry);
        }
        return all;
    });
    module.attr("RPC_PROTOCOL") = llama::rpc_protocol();
    module.def("has_rpc", &llama::has_rpc, py::arg("library"),
               "Whether llama.cpp has its RPC backend, or can load it from this file.");
    py::class_<llama::RpcServer, std::shared_ptr<llama::RpcServer>>(module, "RpcServer")
        .def(py::init(&llama::RpcServer::connect), py::arg("address"),
             py::call_guard<py::gil_scoped_release>())
        // Another thread may be connecting, and wait for the network.
        .def_static("is_connected", &llama::RpcServer::is_connected, py::arg("address"),
                    py::call_guard<py::gil_scoped_release>())
        .def_static("n_connected", &llama::RpcServer::n_connected, py::call_guard<py::gil_scoped_release>())
        .def_property_readonly("free_bytes", [](const llama::RpcServer& self) {
            const py::gil_scoped_release release;
            return self.free_bytes();
        });
    module.def(
        "inspect_gguf",
        [](const std::string& path) {
            const std::shared_ptr<const llama::GgufInfo> parsed = [&] {
                const py::gil_scoped_release release;
                return llama::inspect_gguf(path);
            }();
            const llama::GgufInfo& info = *parsed;
            py::dict metadata;
            for (const auto& [key, value] : info.metadata) {
                if (const auto* text = std::get_if<std::string>(&value))
                    metadata[to_str(key)] = to_str(*text);
                else
                    metadata[to_str(key)] = py::cast(value);
            }
            py::dict result;
            result["metadata"] = metadata;
            py::dict lengths;
            for (const auto& [key, length] : info.array_lengths) lengths[to_str(key)] = length;
            py::dict small;
            for (const auto& [key, values] : info.small_int_arrays) small[to_str(key)] = values;
            result["array_lengths"] = lengths;
            result["small_int_arrays"] = small;
            result["n_tensors"] = info.tensors.size();
            result["n_parameters"] = info.n_parameters;
            result["tensor_bytes"] = info.tensor_bytes;
            result["file_bytes"] = info.file_bytes;
            result["expected_bytes"] = info.expected_bytes;
            result["truncated"] = info.truncated;
            return result;
        },
        py::arg("path"), "What a GGUF file's header says, without loading tensors.");
}

}  // namespace colm::python
