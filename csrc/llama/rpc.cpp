#include "llama/rpc.h"

#include <ggml-rpc.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>

#include "colm/error.h"
#include "llama/backend.h"
#include "llama/model_file.h"
#include "llama/model_options.h"

namespace colm::llama {
namespace {

ggml_backend_reg_t rpc_backend() { return ggml_backend_reg_by_name("RPC"); }

struct Connections {
    std::mutex mutex;
    std::map<std::string, std::weak_ptr<RpcServer>> open;
};

Connections& connections() {
    static auto* all = new Connections;  // never destroyed: pairs may outlive the process's statics
    return *all;
}

bool same_gpu(ggml_backend_dev_t one, ggml_backend_dev_t other) {
    ggml_backend_dev_props a;
    ggml_backend_dev_props b;
    ggml_backend_dev_get_props(one, &a);
    ggml_backend_dev_get_props(other, &b);
    return a.device_id != nullptr && b.device_id != nullptr && std::strcmp(a.device_id, b.device_id) == 0;
}

// The GPUs of this machine; integrated ones only where there are no others.
std::vector<ggml_backend_dev_t> local_gpus() {
    for (const auto type : {GGML_BACKEND_DEVICE_TYPE_GPU, GGML_BACKEND_DEVICE_TYPE_IGPU}) {
        std::vector<ggml_backend_dev_t> found;
        for (std::size_t i = 0; i < ggml_backend_dev_count(); ++i) {
            ggml_backend_dev_t device = ggml_backend_dev_get(i);
            // Two backends may know one GPU.
            if (ggml_backend_dev_type(device) == type &&
                std::none_of(found.begin(), found.end(),
                             [device](ggml_backend_dev_t known) { return same_gpu(known, device); }))
                found.push_back(device);
        }
        if (!found.empty()) return found;
    }
    return {};
}

}  // namespace

std::pair<int, int> rpc_protocol() { return {RPC_PROTO_MAJOR_VERSION, RPC_PROTO_MINOR_VERSION}; }

bool has_rpc(const std::string& library) {
    init_backend();
    if (rpc_backend() == nullptr && !library.empty()) ggml_backend_load(library.c_str());
    return rpc_backend() != nullptr;
}

std::shared_ptr<RpcServer> RpcServer::connect(const std::string& address) {
    Connections& all = connections();
    const std::lock_guard<std::mutex> lock(all.mutex);
    std::shared_ptr<RpcServer> server = all.open[address].lock();
    if (!server) {
        server = std::make_shared<RpcServer>(address);
        all.open[address] = server;
    }
    return server;
}

bool RpcServer::is_connected(const std::string& address) {
    Connections& all = connections();
    const std::lock_guard<std::mutex> lock(all.mutex);
    const auto found = all.open.find(address);
    return found != all.open.end() && !found->second.expired();
}

std::size_t RpcServer::n_connected() {
    Connections& all = connections();
    const std::lock_guard<std::mutex> lock(all.mutex);
    return static_cast<std::size_t>(std::count_if(all.open.begin(), all.open.end(),
                                                  [](const auto& entry) { return !entry.second.expired(); }));
}

// ggml asserts in the thread that connects, so that the guard turns that into an error. What fails later, it
// notices in a thread of its own.
RpcServer::RpcServer(const std::string& address) {
    init_backend();
    const std::uint64_t before = log_position();
    try {
        const AssertionGuard guard;
        const auto add = reinterpret_cast<decltype(&ggml_backend_rpc_add_server)>(
            ggml_backend_reg_get_proc_address(rpc_backend(), "ggml_backend_rpc_add_server"));
        ggml_backend_reg_t server = add(address.c_str());
        for (std::size_t i = 0; server != nullptr && i < ggml_backend_reg_dev_count(server); ++i)
            devices_.push_back(ggml_backend_reg_dev_get(server, i));
        if (!devices_.empty()) backend_.reset(ggml_backend_dev_init(devices_.front(), nullptr));
    } catch (const std::exception& error) {
        throw LoadError("the RPC server " + address + " cannot be used (llama.cpp: " + error.what() + ")");
    }
    if (!backend_) throw LoadError("the RPC server " + address + " has no device" + llama_cpp_says(before));
}

std::uint64_t RpcServer::free_bytes() const {
    std::uint64_t all = 0;
    for (ggml_backend_dev_t device : devices_) {
        std::size_t free_bytes = 0;
        std::size_t total_bytes = 0;
        ggml_backend_dev_memory(device, &free_bytes, &total_bytes);
        all += free_bytes;
    }
    return all;
}

std::vector<ggml_backend_dev_t> devices_of(const RpcServers& servers) {
    std::vector<ggml_backend_dev_t> devices;
    for (const auto& server : servers)
        devices.insert(devices.end(), server->devices().begin(), server->devices().end());
    const std::size_t n_remote = devices.size();
    for (ggml_backend_dev_t device : local_gpus()) devices.push_back(device);
    require(devices.size() <= max_devices(),
            "rpc_servers have " + std::to_string(n_remote) + " devices and this machine has " +
                std::to_string(devices.size() - n_remote) + " GPUs; together at most " +
                std::to_string(max_devices()) + " are possible, so name fewer servers");
    devices.push_back(nullptr);
    return devices;
}

}  // namespace colm::llama
