// Every failure that the method reports. `kind` is the name of the Python class that the bindings raise.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace colm {

class Error : public std::runtime_error {
  public:
    using Value = std::variant<std::int64_t, double, std::string>;
    using Fields = std::vector<std::pair<std::string, Value>>;

    Error(const char* kind, const std::string& message, Fields fields = {})
        : std::runtime_error(message), kind_(kind), fields_(std::move(fields)) {}

    const char* kind() const { return kind_; }
    // Numbers and texts of the message, which become attributes of the Python exception.
    const Fields& fields() const { return fields_; }

  private:
    const char* kind_;
    Fields fields_;
};

struct OptionError : Error {
    explicit OptionError(const std::string& message) : Error("OptionError", message) {}
};

struct LoadError : Error {
    explicit LoadError(const std::string& message) : Error("LoadError", message) {}
};

struct SessionError : Error {
    explicit SessionError(const std::string& message) : Error("SessionError", message) {}
};

struct VocabMismatch : Error {
    // `expert_text`: of the expert of that name.
    VocabMismatch(const std::string& message, std::int64_t token_id, const std::string& base_text,
                  const std::string& expert_text, const std::string& expert)
        : Error("VocabMismatch", message,
                {{"token_id", token_id},
                 {"base_text", base_text},
                 {"assistant_text", expert_text},
                 {"expert", expert}}) {}
};

struct HeadError : Error {
    explicit HeadError(const std::string& message) : Error("HeadError", message) {}
};

struct HeadMismatch : Error {
    explicit HeadMismatch(const std::string& message) : Error("HeadMismatch", message) {}
};

struct TokenizeError : Error {
    explicit TokenizeError(const std::string& message) : Error("TokenizeError", message) {}
};

struct ContextFull : Error {
    ContextFull(const std::string& message, std::int64_t n_prompt, std::int64_t n_ctx)
        : Error("ContextFull", message, {{"n_prompt", n_prompt}, {"n_ctx", n_ctx}}) {}
};

struct GenerationError : Error {
    explicit GenerationError(const std::string& message) : Error("GenerationError", message) {}

  protected:
    GenerationError(const char* kind, const std::string& message, Fields fields)
        : Error(kind, message, std::move(fields)) {}
};

// Of the tokens that an expert named none may follow; there may be others. `position`: tokens before it.
struct NoneNamed : GenerationError {
    NoneNamed(std::size_t of_expert, std::size_t at)
        : GenerationError("no token can follow: the expert named none that may"),
          expert(of_expert),
          position(at) {}
    std::size_t expert, position;
};

// Also while a text is written: what the grammar asks of one token may be too much.
struct GrammarError : GenerationError {
    explicit GrammarError(const std::string& message, Fields fields = {})
        : GenerationError("GrammarError", message, std::move(fields)) {}
};

// Of an expert whose context is made while a text is written, and has no room.
struct NotEnoughMemory : GenerationError {
    NotEnoughMemory(const std::string& message, const std::string& expert, std::int64_t needed,
                    std::int64_t available = 0)
        : GenerationError("NotEnoughMemory", message,
                          {{"expert", expert}, {"needed", needed}, {"available", available}}) {}
};

// Of an expert on another machine. `kind`: the Python class. `status`: of HTTP, where the server refused.
struct RemoteError : GenerationError {
    RemoteError(const char* kind, const std::string& message, const std::string& url,
                const std::string& reason, std::int64_t status)
        : GenerationError(kind, message, {{"url", url}, {"reason", reason}, {"status", status}}) {}
};

struct QueueTimeout : Error {
    QueueTimeout(const std::string& message, double waited, double timeout)
        : Error("QueueTimeout", message, {{"waited", waited}, {"timeout", timeout}}) {}
};

struct PairClosed : Error {
    PairClosed() : Error("PairClosed", "this pair was closed; load it again to go on") {}
};

// Unwinds a computation that was asked to stop. Never reaches Python: the generation ends as `cancelled`, or
// the pending KeyboardInterrupt is raised.
struct Cancelled : std::exception {
    const char* what() const noexcept override { return "cancelled"; }
};

}  // namespace colm
