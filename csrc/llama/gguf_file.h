// What a GGUF file says about itself, read without loading any tensor.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
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

struct GgufTensor {
    std::string name;
    int type = 0;  // ggml_type
    std::array<std::int64_t, 4> shape{};
    std::uint64_t offset = 0;  // of its first byte in the file
    std::uint64_t bytes = 0;
};

// All that anything here needs of a header, without its large arrays.
struct GgufInfo {
    using Value = std::variant<std::int64_t, double, bool, std::string>;

    std::map<std::string, Value> metadata;              // scalars and strings
    std::map<std::string, std::int64_t> array_lengths;  // arrays, by length only
    std::map<std::string, std::vector<std::int64_t>>
        small_int_arrays;  // integer arrays of at most 1024 entries
    std::map<std::string, std::pair<std::int64_t, std::int64_t>>
        int_ranges;                             // smallest and largest entry of integer arrays
    bool tokens_are_texts = true;               // tokenizer.ggml.tokens, where there is one
    std::optional<std::size_t> repeated_token;  // the first token whose text an earlier one has
    std::string repeated_text;
    std::vector<GgufTensor> tensors;
    std::int64_t n_parameters = 0;
    std::uint64_t tensor_bytes = 0;
    std::uint64_t file_bytes = 0;
    bool truncated = false;  // the file ends before the last tensor does
    std::uint64_t expected_bytes = 0;
};

// What the file's header says. Parsed once: a file with the same path, size and time of change is not read
// again.
std::shared_ptr<const GgufInfo> inspect_gguf(const std::string& path);

}  // namespace colm::llama
