// The first passes through a model, where what is wrong with it can still become an error.
#include <llama.h>

#include <algorithm>

#include "colm/error.h"
#include "llama/model.h"

namespace colm::llama {
namespace {

constexpr std::size_t kMostTokens = 2;  // graphs and kernels differ between one token and several

}  // namespace

void LlamaModel::first_passes(bool hidden, Interrupt& interrupt) {
    const std::size_t n_texts = std::min<std::size_t>(n_sequences_, 2);
    const std::size_t length = options_.kv_unified ? n_ctx_ : n_ctx_ / n_sequences_;
    const std::size_t n_tokens = std::max(n_texts, std::min({kMostTokens, n_batch_, length - 1}));
    for (std::size_t i = 0; i < n_tokens; ++i) set_token(i, {0, i / n_texts, i % n_texts, i + 1 == n_tokens});
    decode(n_tokens, false, interrupt);
    set_token(0, {0, (n_tokens - 1) / n_texts + 1, 0, true});
    decode(1, hidden, interrupt);
}

void LlamaModel::warm_up(Interrupt& interrupt) {
    // An assertion on a worker thread of ggml ends the process, so the caller's thread computes alone here,
    // where AssertionGuard holds. Which operations a pass has depends on the model and on whether it reads
    // one token or several, of one text or of several; so two passes meet what later ones will.
    llama_set_n_threads(context_.get(), 1, 1);
    try {
        try {
            first_passes(true, interrupt);
        } catch (const GenerationError& error) {
            // Of some architectures llama.cpp gives logits only, which is enough for most heads.
            free_context();
            make_context();
            llama_set_n_threads(context_.get(), 1, 1);
            first_passes(false, interrupt);
            no_hidden_ = error.what();
        }
    } catch (const Cancelled&) {
        throw LoadError(path_ + " was not loaded, because loading was stopped");
    } catch (const GenerationError& error) {
        throw LoadError(
            path_ + " cannot be computed with: " + error.what() +
            "; its keys and tensors do not fit together, or this llama.cpp does not support them");
    }
    clear();
    llama_set_embeddings(context_.get(), false);
    embeddings_ = false;
    llama_set_n_threads(context_.get(), options_.n_threads, options_.n_threads_batch);
}

}  // namespace colm::llama
