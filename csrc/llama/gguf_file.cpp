#include "llama/gguf_file.h"

#include <ggml.h>
#include <gguf.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <string_view>
#include <system_error>
#include <unordered_set>

#include "colm/error.h"
#include "llama/backend.h"

namespace colm::llama {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kSmallArray = 1024;
constexpr std::size_t kMaxParsed = 16;  // headers that are kept, some 100 kB each

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

// Whether no two tokens have one text, as llama.cpp asserts.
void read_tokens(const gguf_context* gguf, std::int64_t id, GgufInfo& info) {
    info.tokens_are_texts = gguf_get_arr_type(gguf, id) == GGUF_TYPE_STRING;
    if (!info.tokens_are_texts) return;
    std::unordered_set<std::string_view> seen;
    std::deque<std::string> given;  // names of empty tokens; they stay where they are
    const std::size_t n = gguf_get_arr_n(gguf, id);
    seen.reserve(n);
    for (std::size_t i = 0; i < n; ++i) {
        std::string_view text = gguf_get_arr_str(gguf, id, i);
        if (text.empty())
            text = given.emplace_back("[EMPTY_" + std::to_string(i) + "]");  // as llama.cpp does
        if (seen.insert(text).second) continue;
        info.repeated_token = i;
        info.repeated_text = text;
        return;
    }
}

void read_key(const gguf_context* gguf, std::int64_t id, GgufInfo& info) {
    const std::string key = gguf_get_key(gguf, id);
    const gguf_type type = gguf_get_kv_type(gguf, id);
    if (type == GGUF_TYPE_ARRAY) {
        const std::size_t n = gguf_get_arr_n(gguf, id);
        const gguf_type element = gguf_get_arr_type(gguf, id);
        info.array_lengths[key] = static_cast<std::int64_t>(n);
        if (key == "tokenizer.ggml.tokens") read_tokens(gguf, id, info);
        if (!is_integer(element)) return;
        auto* small = n <= kSmallArray ? &info.small_int_arrays[key] : nullptr;
        auto& [least, most] = info.int_ranges[key];
        for (std::size_t i = 0; i < n; ++i) {
            const std::int64_t value = integer_at(gguf_get_arr_data(gguf, id), element, i);
            least = i == 0 ? value : std::min(least, value);
            most = i == 0 ? value : std::max(most, value);
            if (small != nullptr) small->push_back(value);
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

GgufInfo parse(const std::string& path) {
    const GgufPtr gguf = open_gguf(path);
    GgufInfo info;
    for (std::int64_t id = 0; id < gguf_get_n_kv(gguf.get()); ++id) read_key(gguf.get(), id, info);
    const std::uint64_t data_begins = gguf_get_data_offset(gguf.get());
    info.expected_bytes = data_begins;
    for (std::int64_t id = 0; id < gguf_get_n_tensors(gguf.get()); ++id) {
        GgufTensor tensor;
        tensor.name = gguf_get_tensor_name(gguf.get(), id);
        tensor.type = gguf_get_tensor_type(gguf.get(), id);
        std::copy_n(gguf_get_tensor_ne(gguf.get(), id), tensor.shape.size(), tensor.shape.begin());
        tensor.offset = data_begins + gguf_get_tensor_offset(gguf.get(), id);
        tensor.bytes = gguf_get_tensor_size(gguf.get(), id);
        info.n_parameters += tensor.shape[0] * tensor.shape[1] * tensor.shape[2] * tensor.shape[3];
        info.tensor_bytes += tensor.bytes;
        info.expected_bytes = std::max(info.expected_bytes, tensor.offset + tensor.bytes);
        info.tensors.push_back(std::move(tensor));
    }
    info.file_bytes = fs::file_size(native(path));
    info.truncated = info.file_bytes < info.expected_bytes;
    return info;
}

// Which content a file has, as far as its entry in the folder tells.
struct Version {
    fs::path path;
    std::uintmax_t size = 0;
    fs::file_time_type changed;
    bool settled = false;  // a file that changed just now may change again within one tick of its clock

    bool operator==(const Version& other) const {
        return path == other.path && size == other.size && changed == other.changed;
    }
};

Version version_of(const std::string& path) {
    Version version;
    std::error_code failed[3];  // the parser tells what is wrong with the file
    version.path = fs::absolute(native(path), failed[0]);
    version.size = fs::file_size(version.path, failed[1]);
    version.changed = fs::last_write_time(version.path, failed[2]);
    version.settled = !failed[0] && !failed[1] && !failed[2] &&
                      fs::file_time_type::clock::now() - version.changed > std::chrono::seconds(2);
    return version;
}

struct Parsed {
    Version version;
    std::shared_ptr<const GgufInfo> info;
};

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
        drain_log();  // the error tells of them; the next load's log must not
        throw LoadError(path + " has a damaged GGUF header" + (why.empty() ? "" : ": " + why) +
                        "; download it again");
    }
    return gguf;
}

std::shared_ptr<const GgufInfo> inspect_gguf(const std::string& path) {
    static std::mutex mutex;
    static std::deque<Parsed> parsed;  // the newest first
    const Version version = version_of(path);
    {
        const std::lock_guard lock(mutex);
        for (const Parsed& known : parsed)
            if (version.settled && known.version == version) return known.info;
    }
    auto info = std::make_shared<const GgufInfo>(parse(path));
    if (!version.settled) return info;
    const std::lock_guard lock(mutex);
    parsed.push_front({version, info});
    if (parsed.size() > kMaxParsed) parsed.pop_back();
    return info;
}

}  // namespace colm::llama
