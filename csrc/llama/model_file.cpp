#include "llama/model_file.h"

#include <exception>

#include "colm/error.h"
#include "llama/backend.h"
#include "llama/file_checks.h"
#include "llama/vocab.h"

namespace colm::llama {

std::string llama_cpp_says(std::uint64_t since) {
    const std::string why = last_errors(since);
    return why.empty() ? std::string() : " (llama.cpp: " + why + ")";
}

llama_model_ptr open_model(const std::string& path, const llama_model_params& params) {
    const std::uint64_t before = log_position();
    llama_model_ptr model;
    try {
        const AssertionGuard guard;
        model.reset(llama_model_load_from_file(path.c_str(), params));
    } catch (const std::exception& error) {
        throw LoadError(path + " cannot be loaded (llama.cpp: " + error.what() + ")");
    }
    if (!model) throw LoadError(path + " cannot be loaded" + llama_cpp_says(before));
    return model;
}

Vocabulary load_vocabulary(const std::string& path) {
    init_backend();
    check_model_file(path);
    llama_model_params params = llama_model_default_params();
    params.vocab_only = true;
    const llama_model_ptr model = open_model(path, params);
    return read_vocabulary(model.get(), path);
}

}  // namespace colm::llama
