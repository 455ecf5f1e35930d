#include "remote.h"

#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include <array>
#include <utility>

#include "colm/error.h"

namespace py = pybind11;

namespace colm::python {
namespace {

// RemoteError and what derives from it.
constexpr std::array<const char*, 6> kErrors = {"RemoteError",         "RemoteUnreachable",
                                                "RemoteTimeout",       "RemoteRefused",
                                                "RemoteAnswerInvalid", "RemoteVocabularyMismatch"};

// What Python raised, without its objects: the error is passed on where nobody holds the GIL.
[[noreturn]] void throw_plain(const py::error_already_set& raised) {
    const py::object errors = py::module_::import("colm_cpp.errors");
    const py::object& value = raised.value();
    const std::string name = py::str(py::type::of(value).attr("__name__"));
    const std::string message = py::str(value);
    if (raised.matches(errors.attr("RemoteError")))
        for (const char* kind : kErrors)
            if (name == kind)
                throw RemoteError(kind, message, value.attr("url").cast<std::string>(),
                                  value.attr("reason").cast<std::string>(),
                                  py::getattr(value, "status", py::int_(0)).cast<std::int64_t>());
    throw GenerationError("asking an expert on another machine raised " + name + ": " + message);
}

class PythonCalls final : public RemoteCalls {
  public:
    explicit PythonCalls(py::object likeliest) : likeliest_(std::move(likeliest)) {}
    ~PythonCalls() override {
        const py::gil_scoped_acquire acquire;
        likeliest_ = py::object();
    }
    PythonCalls(const PythonCalls&) = delete;
    PythonCalls& operator=(const PythonCalls&) = delete;

    std::vector<Likeliest> ask(std::size_t slot, const std::vector<Token>& tokens,
                               const std::vector<std::size_t>& counts,
                               const std::function<bool()>& wanted) override {
        const py::gil_scoped_acquire acquire;
        try {
            std::vector<Likeliest> found;
            for (const py::handle one : likeliest_(slot, tokens, counts, wanted)) {
                const auto ids = one.attr("ids").cast<std::vector<Token>>();
                const auto logprobs = one.attr("logprobs").cast<std::vector<double>>();
                if (ids.size() != logprobs.size())
                    throw GenerationError("a distribution has " + std::to_string(ids.size()) + " ids and " +
                                          std::to_string(logprobs.size()) + " log-probabilities");
                Likeliest likeliest;
                likeliest.tail = one.attr("tail").cast<double>();
                for (std::size_t i = 0; i < ids.size(); ++i)
                    likeliest.candidates.push_back({ids[i], static_cast<float>(logprobs[i])});
                found.push_back(std::move(likeliest));
            }
            return found;
        } catch (const py::error_already_set& raised) {
            throw_plain(raised);
        } catch (const py::cast_error& error) {
            throw GenerationError("an expert on another machine gave what is no distribution: " +
                                  std::string(error.what()));
        }
    }

    // Its calls need the GIL.
    void wait(const std::function<void()>& join) override {
        if (PyGILState_Check() == 0) return join();
        const py::gil_scoped_release release;
        join();
    }

  private:
    py::object likeliest_;
};

}  // namespace

std::vector<llama::RemoteMember> remote_members(const Remotes& remotes) {
    std::vector<llama::RemoteMember> members;
    for (const auto& [name, id, likeliest, n_ctx, n_counts, n_ids, replaceable] : remotes)
        members.push_back(
            {name, id, std::make_shared<PythonCalls>(likeliest), n_ctx, n_counts, n_ids, replaceable});
    return members;
}

}  // namespace colm::python
