#include "llama/gguf_file.h"

#include <ggml.h>
#include <gguf.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "colm/error.h"
#include "llama/backend.h"

namespace colm::llama {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kSmallArray = 1024;

fs::path native(const std::string& utf8) { return fs::u8path(utf8); }

std::int64_t integer_at(const void* data, gguf_type type, std::size_t i) {
    switch (type) {
        case GGUF_TYPE_UINT8:
            return static_cast<const std::uint8_t*>(data)[i];
        case GGUF_TYPE_INT8:
            return static_cast<const std::int8_t*>(data)[i];
        case GGUF_TYPE_UINT16:
            return static_cast<const std::uint16_t*>(data)[i];
        case GGUF_TYPE_INT16:
            return static_cast<const std::int16_t*>(data)[i];
        case GGUF_TYPE_UINT32:
            return static_cast<const std::uint32_t*>(data)[i];
        case GGUF_TYPE_INT32:
            return static_cast<const std::int32_t*>(data)[i];
        case GGUF_TYPE_UINT64:
            return static_cast<std::int64_t>(static_cast<const std::uint64_t*>(data)[i]);
        case GGUF_TYPE_INT64:
            return static_cast<const std::int64_t*>(data)[i];
        default:
            return 0;
    }
}

bool is_integer(gguf_type type) {
    return type <= GGUF_TYPE_INT32 || type == GGUF_TYPE_UINT64 || type == GGUF_TYPE_INT64;
}

void read_key(const gguf_context* gguf, std::int64_t id, GgufInfo& info) {
    const std::string key = gguf_get_key(gguf, id);
    const gguf_type type = gguf_get_kv_type(gguf, id);
    if (type == GGUF_TYPE_ARRAY) {
        const std::size_t n = gguf_get_arr_n(gguf, id);
        const gguf_type element = gguf_get_arr_type(gguf, id);
        info.array_lengths[key] = static_cast<std::int64_t>(n);
        if (is_integer(element) && n <= kSmallArray) {
            std::vector<std::int64_t>& values = info.small_int_arrays[key];
            for (std::size_t i = 0; i < n; ++i)
                values.push_back(integer_at(gguf_get_arr_data(gguf, id), element, i));
        }
    } else if (type == GGUF_TYPE_STRING) {
        info.metadata[key] = std::string(gguf_get_val_str(gguf, id));
    } else if (type == GGUF_TYPE_BOOL) {
        info.metadata[key] = gguf_get_val_bool(gguf, id);
    } else if (type == GGUF_TYPE_FLOAT32) {
        info.metadata[key] = static_cast<double>(gguf_get_val_f32(gguf, id));
    } else if (type == GGUF_TYPE_FLOAT64) {
        info.metadata[key] = gguf_get_val_f64(gguf, id);
    } else {
        info.metadata[key] = integer_at(gguf_get_val_data(gguf, id), type, 0);
    }
}

// A header read through a stream, so that it can be bounded.
struct HeaderSource {
    std::ifstream& stream;
    std::uint64_t at;  // where the stream stands
};

std::size_t read_header_bytes(void* source, void* out, std::uint64_t offset, std::size_t n) {
    auto& from = *static_cast<HeaderSource*>(source);
    if (from.at != offset) from.stream.seekg(static_cast<std::streamoff>(offset));
    from.stream.read(static_cast<char*>(out), static_cast<std::streamsize>(n));
    const auto n_read = static_cast<std::size_t>(std::max<std::streamsize>(from.stream.gcount(), 0));
    from.at = offset + n_read;
    return n_read;
}

}  // namespace

void GgufDeleter::operator()(gguf_context* gguf) const { gguf_free(gguf); }

GgufPtr open_gguf(const std::string& path, std::uint64_t max_header_bytes) {
    init_backend();
    const fs::path file = native(path);
    std::error_code error;
    const fs::file_status status = fs::status(file, error);
    if (!fs::exists(status)) throw LoadError("there is no file " + path);
    if (!fs::is_directory(status) && !fs::is_regular_file(status))
        throw LoadError(path + " is not an ordinary file");
    if (fs::is_directory(status)) throw LoadError(path + " is a folder; name a .gguf file in it");
    std::ifstream stream(file, std::ios::binary);
    if (!stream) throw LoadError(path + " cannot be read; check its permissions");
    char magic[4] = {};
    stream.read(magic, sizeof magic);
    if (stream.gcount() != sizeof magic || std::string(magic, sizeof magic) != "GGUF")
        throw LoadError(path + " is not a GGUF file (it does not begin with \"GGUF\")");
    const gguf_init_params params{/*no_alloc=*/true, /*ctx=*/nullptr};
    HeaderSource source{stream, sizeof magic};
    const std::uint64_t before = log_position();
    GgufPtr gguf(max_header_bytes == 0
                     ? gguf_init_from_file(path.c_str(), params)
                     : gguf_init_from_callback(&read_header_bytes, &source, 0, max_header_bytes, params));
    if (!gguf) {
        const std::string why = last_errors(before);
        throw LoadError(path + " has a damaged GGUF header" + (why.empty() ? "" : ": " + why) +
                        "; download it again");
    }
    return gguf;
}

GgufInfo inspect_gguf(const std::string& path) {
    const GgufPtr gguf = open_gguf(path);
    GgufInfo info;
    for (std::int64_t id = 0; id < gguf_get_n_kv(gguf.get()); ++id) read_key(gguf.get(), id, info);
    info.n_tensors = gguf_get_n_tensors(gguf.get());
    std::uint64_t data_bytes = 0;
    for (std::int64_t id = 0; id < info.n_tensors; ++id) {
        const std::uint64_t size = gguf_get_tensor_size(gguf.get(), id);
        info.tensor_bytes += size;
        const std::int64_t* shape = gguf_get_tensor_ne(gguf.get(), id);
        info.n_parameters += shape[0] * shape[1] * shape[2] * shape[3];
        data_bytes = std::max<std::uint64_t>(data_bytes, gguf_get_tensor_offset(gguf.get(), id) + size);
    }
    info.expected_bytes = gguf_get_data_offset(gguf.get()) + data_bytes;
    info.file_bytes = fs::file_size(native(path));
    info.truncated = info.file_bytes < info.expected_bytes;
    return info;
}

}  // namespace colm::llama
