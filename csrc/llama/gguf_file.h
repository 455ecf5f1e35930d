// What a GGUF file says about itself, read without loading any tensor.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

struct gguf_context;

namespace colm::llama {

struct GgufDeleter {
    void operator()(gguf_context* gguf) const;
};
using GgufPtr = std::unique_ptr<gguf_context, GgufDeleter>;

// Opens the file's header. Throws LoadError where the file is missing, not GGUF, or its header is damaged, or
// longer than `max_header_bytes` (0: of any length).
GgufPtr open_gguf(const std::string& path, std::uint64_t max_header_bytes = 0);

struct GgufInfo {
    using Value = std::variant<std::int64_t, double, bool, std::string>;

    std::map<std::string, Value> metadata;              // scalars and strings
    std::map<std::string, std::int64_t> array_lengths;  // arrays, by length only
    std::map<std::string, std::vector<std::int64_t>>
        small_int_arrays;  // integer arrays of at most 1024 entries
    std::int64_t n_tensors = 0;
    std::int64_t n_parameters = 0;
    std::uint64_t tensor_bytes = 0;
    std::uint64_t file_bytes = 0;
    bool truncated = false;  // the file ends before the last tensor does
    std::uint64_t expected_bytes = 0;
};

GgufInfo inspect_gguf(const std::string& path);

}  // namespace colm::llama
