// Files under names of any script, large ones, damaged ones, and what becomes of llama.cpp's assertions.
#include <ggml.h>

#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>

#include "check.h"
#include "colm/error.h"
#include "demo.h"
#include "llama/backend.h"
#include "llama/gguf_file.h"

namespace fs = std::filesystem;
using colm::LoadError;
using colm::llama::inspect_gguf;

namespace {

// A folder of its own, with a name that no code page has whole.
class Folder {
  public:
    Folder() : path_(fs::temp_directory_path() / fs::u8path("colm \xc3\xa9 \xd0\xb4\xd0\xbe\xd0\xbc \xe6\xa8\xa1")) {
        fs::create_directories(path_);
    }
    ~Folder() {
        std::error_code ignored;  // it is a temporary folder
        fs::remove_all(path_, ignored);
    }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;

    // A copy of a file of the demo.
    std::string copy(const std::string& name) const {
        fs::copy_file(fs::u8path(kDemo + name), path_ / name, fs::copy_options::overwrite_existing);
        return (path_ / name).u8string();
    }

  private:
    fs::path path_;
};

}  // namespace

TEST_CASE("files: models and heads have names in UTF-8") {
    const Folder folder;
    const std::string base = folder.copy("base.gguf");
    const auto pair = load_demo(base);
    REQUIRE_EQ(pair->base().path(), base);
    REQUIRE_EQ(colm::llama::read_head(folder.copy("head.gguf"))->n_scores(), 1);
    for (const bool mapped : {false, true}) {
        colm::llama::ModelOptions options;
        options.path = base;
        options.use_mmap = mapped;
        REQUIRE_EQ(colm::llama::LlamaModel(options).n_embd(), 128);
    }
}

TEST_CASE("files: sizes above four gigabytes are told") {
    const Folder folder;
    const std::string file = folder.copy("base.gguf");
    const auto before = inspect_gguf(file);
    REQUIRE_EQ(before->file_bytes, fs::file_size(fs::u8path(kDemo + "base.gguf")));
    constexpr std::uint64_t kLarge = (std::uint64_t{5} << 30) + 1;
    fs::resize_file(fs::u8path(file), kLarge);  // sparse
    const auto after = inspect_gguf(file);
    REQUIRE_EQ(after->file_bytes, kLarge);
    REQUIRE_EQ(after->expected_bytes, before->expected_bytes);
    REQUIRE(!after->truncated);
}

TEST_CASE("files: damaged and missing ones are errors") {
    const Folder folder;
    const std::string file = folder.copy("base.gguf");
    REQUIRE_THROWS_AS(load_demo(file + ".missing"), LoadError);
    fs::resize_file(fs::u8path(file), 500000);
    REQUIRE_THROWS_AS(load_demo(file), LoadError);
    fs::resize_file(fs::u8path(file), 1000);  // in the header
    REQUIRE_THROWS_AS(load_demo(file), LoadError);
    std::ofstream(fs::u8path(file), std::ios::binary | std::ios::trunc) << "GGUF\r\n\x1a and no more";
    REQUIRE_THROWS_AS(load_demo(file), LoadError);
}

TEST_CASE("files: assertions of llama.cpp become exceptions") {
    colm::llama::init_backend();
    const colm::llama::AssertionGuard guard;
    REQUIRE_THROWS_AS(ggml_abort("a file", 1, "a message"), std::runtime_error);
    // Through frames of C.
    const ggml_init_params params{1024 * 1024, nullptr, true};
    ggml_context* context = ggml_init(params);
    ggml_tensor* wide = ggml_new_tensor_1d(context, GGML_TYPE_F32, 3);
    ggml_tensor* narrow = ggml_new_tensor_1d(context, GGML_TYPE_F32, 2);
    REQUIRE_THROWS_WITH_AS(ggml_mul_mat(context, wide, narrow), doctest::Contains("GGML_ASSERT"),
                           std::runtime_error);
    ggml_free(context);
}
