// What a model computes: batches of tokens, and their logits and hidden states.
#include <algorithm>
#include <exception>
#include <string>

#include "colm/error.h"
#include "llama/backend.h"
#include "llama/model.h"
#include "llama/model_file.h"

namespace colm::llama {

void LlamaModel::set_token(std::size_t i, const BatchToken& token) {
    batch_.tokens[i] = token.token;
    batch_.positions[i] = static_cast<llama_pos>(token.position);
    batch_.sequences[i] = static_cast<llama_seq_id>(token.sequence);
    batch_.seq_ids[i] = &batch_.sequences[i];
    batch_.outputs[i] = token.output;
}

void LlamaModel::decode(std::size_t n_tokens, bool hidden, Interrupt& interrupt) {
    if (hidden && !no_hidden_.empty())
        throw GenerationError(path_ + " gives no hidden state (" + no_hidden_ +
                              "); use a head that does not look at it, like \"entropy\"");
    if (hidden != embeddings_) {
        llama_set_embeddings(context_.get(), hidden);
        embeddings_ = hidden;
    }
    interrupt_ = &interrupt;
    const std::uint64_t before = log_position();
    std::int32_t status = 0;
    std::string thrown;
    try {
        const AssertionGuard guard;
        status = llama_decode(context_.get(), {static_cast<std::int32_t>(n_tokens), batch_.tokens.data(),
                                               nullptr, batch_.positions.data(), batch_.n_seq_ids.data(),
                                               batch_.seq_ids.data(), batch_.outputs.data()});
    } catch (const std::exception& error) {
        status = -1;
        thrown = error.what();
    }
    interrupt_ = nullptr;
    if (status == 2) throw Cancelled();
    if (status != 0)
        throw GenerationError("llama_decode failed with status " + std::to_string(status) + " on " +
                              std::to_string(n_tokens) + " tokens at position " +
                              std::to_string(batch_.positions[0]) + " of " + path_ +
                              (thrown.empty() ? llama_cpp_says(before) : " (" + thrown + ")"));
}

void LlamaModel::eval_batch(View<const BatchToken> tokens, bool hidden, Interrupt& interrupt) {
    ensure_context();
    std::size_t n_outputs = 0;
    for (std::size_t i = 0; i < std::min(tokens.size, n_batch_); ++i) {
        const BatchToken& token = tokens[i];
        if (token.position >= n_ctx_ || token.sequence >= n_sequences_ || (hidden && !token.output))
            throw GenerationError(
                "token " + std::to_string(i) + " of a batch (position " + std::to_string(token.position) +
                ", sequence " + std::to_string(token.sequence) + ") does not fit n_ctx " +
                std::to_string(n_ctx_) + " and " + std::to_string(n_sequences_) + " sequences");
        n_outputs += token.output ? 1 : 0;
        set_token(i, token);
    }
    if (tokens.size == 0 || tokens.size > n_batch_ || n_outputs > n_outputs_)
        throw GenerationError("a batch of " + std::to_string(tokens.size) + " tokens with " +
                              std::to_string(n_outputs) + " outputs does not fit n_batch " +
                              std::to_string(n_batch_) + " and " + std::to_string(n_outputs_) + " outputs");
    decode(tokens.size, hidden, interrupt);
}

Output LlamaModel::output(std::size_t i) {
    Output output;
    const std::uint64_t before = log_position();
    const auto at = static_cast<std::int32_t>(i);
    output.logits = {llama_get_logits_ith(context_.get(), at), n_vocab()};
    if (embeddings_) output.hidden = llama_get_embeddings_ith(context_.get(), at);
    if (output.logits.data == nullptr || (embeddings_ && output.hidden == nullptr))
        throw GenerationError("llama.cpp gave no output for " + path_ + llama_cpp_says(before));
    return output;
}

}  // namespace colm::llama
