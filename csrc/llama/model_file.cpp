#include "llama/model_file.h"

#include <exception>
#include <utility>

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

VocabularyFile::VocabularyFile(std::string path) : path_(std::move(path)) {
    init_backend();
    check_model_file(path_);
    llama_model_params params = llama_model_default_params();
    params.vocab_only = true;
    model_ = open_model(path_, params);
    vocabulary_ = read_vocabulary(model_.get(), path_);
}

std::string VocabularyFile::chat_template() const { return llama::chat_template(model_.get()); }

std::vector<Token> VocabularyFile::tokenize(const std::string& text, bool add_special,
                                            bool parse_special) const {
    return llama::tokenize(llama_model_get_vocab(model_.get()), text, add_special && vocabulary_.add_bos,
                           parse_special);
}

std::string chat_template(const llama_model* model) {
    const char* text = llama_model_chat_template(model, nullptr);
    return text == nullptr ? std::string() : std::string(text);
}

}  // namespace colm::llama
