// Machines that hold part of a model, through ggml's RPC backend.
#pragma once

#include <ggml-cpp.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace colm::llama {

// Major and minor version of the protocol. ggml ends the process where a server's is not the same.
std::pair<int, int> rpc_protocol();

// Whether this llama.cpp has the backend. Where it has not, it loads `library` (a path; "": none), which is
// the backend alone.
bool has_rpc(const std::string& library);

// An open connection to a server. One server has one client at a time, so all models of the process share it.
class RpcServer {
  public:
    // The connection to "host:port" that is open, or a new one. Waits where the server has another client.
    // Requires has_rpc(). Throws LoadError.
    static std::shared_ptr<RpcServer> connect(const std::string& address);
    static bool is_connected(const std::string& address);
    static std::size_t n_connected();

    explicit RpcServer(const std::string& address);

    const std::vector<ggml_backend_dev_t>& devices() const { return devices_; }
    // Of all its devices, as the server says.
    std::uint64_t free_bytes() const;

  private:
    std::vector<ggml_backend_dev_t> devices_;
    ggml_backend_ptr backend_;  // ggml closes a connection that no backend and no buffer uses
};

using RpcServers = std::vector<std::shared_ptr<RpcServer>>;

// What a model is divided among, ended by null: the devices of these servers, then the GPUs of this machine.
// Throws OptionError where they are more than llama.cpp knows.
std::vector<ggml_backend_dev_t> devices_of(const RpcServers& servers);

}  // namespace colm::llama
