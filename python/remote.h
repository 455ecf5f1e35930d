// Experts on other machines, which Python asks.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <tuple>
#include <vector>

#include "llama/members.h"

namespace colm::python {

// Name, number, the function that is asked, n_ctx, the most counts, the ids of its model (0: unknown),
// whether a text goes on without it.
using Remotes = std::vector<
    std::tuple<std::string, ExpertId, pybind11::object, std::size_t, std::size_t, std::size_t, bool>>;

std::vector<llama::RemoteMember> remote_members(const Remotes& remotes);

}  // namespace colm::python
