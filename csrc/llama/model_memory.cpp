// What a model holds of texts: going back, states as bytes, and forgetting.
#include <llama.h>

#include <algorithm>
#include <exception>

#include "llama/backend.h"
#include "llama/model.h"

namespace colm::llama {

std::size_t LlamaModel::copy(std::size_t from, std::size_t to, std::size_t n_tokens) {
    if (!can_rewind_ || !swa_full_) return 0;
    llama_memory_t memory = llama_get_memory(context_.get());
    const auto target = static_cast<llama_seq_id>(to);
    // Between caches of their own only whole texts can be copied.
    llama_memory_seq_cp(memory, static_cast<llama_seq_id>(from), target, -1, -1);
    if (llama_memory_seq_rm(memory, target, static_cast<llama_pos>(n_tokens), -1)) return n_tokens;
    llama_memory_seq_rm(memory, target, -1, -1);
    return 0;
}

// All of a sequence can be removed from every kind of memory.
void LlamaModel::forget(std::size_t sequence) {
    if (!context_) return;
    llama_memory_seq_rm(llama_get_memory(context_.get()), static_cast<llama_seq_id>(sequence), -1, -1);
}

// The values too: a NaN in a forgotten text would reach later ones, through attention weights of zero.
void LlamaModel::clear() {
    if (context_) llama_memory_clear(llama_get_memory(context_.get()), true);
}

bool LlamaModel::can_rewind() const { return can_rewind_ && (swa_full_ || llama_model_n_swa(model()) <= 0); }

std::size_t LlamaModel::rewind(std::size_t sequence, std::size_t n_tokens) {
    llama_memory_t memory = llama_get_memory(context_.get());
    const auto text = static_cast<llama_seq_id>(sequence);
    if (n_tokens > 0 && llama_memory_seq_rm(memory, text, static_cast<llama_pos>(n_tokens), -1)) {
        const llama_pos first = llama_memory_seq_pos_min(memory, text);
        const llama_pos last = llama_memory_seq_pos_max(memory, text);
        // A sliding-window cache has dropped tokens that the kept ones still have to see.
        const bool complete =
            first == 0 || (!swa_full_ && first >= 0 &&
                           first <= static_cast<llama_pos>(n_tokens) - llama_model_n_swa(model()));
        const bool recurrent = !can_rewind_;  // a state has no first position
        if (last == static_cast<llama_pos>(n_tokens) - 1 && (complete || recurrent)) return n_tokens;
    }
    if (n_tokens == 0 && n_sequences_ == 1)
        clear();
    else if (n_tokens == 0)
        forget(sequence);
    return 0;
}

std::vector<std::uint8_t> LlamaModel::state(std::size_t sequence, llama_state_seq_flags flags) {
    const auto text = static_cast<llama_seq_id>(sequence);
    try {
        const AssertionGuard guard;
        std::vector<std::uint8_t> bytes(llama_state_seq_get_size_ext(context_.get(), text, flags));
        const std::size_t n =
            llama_state_seq_get_data_ext(context_.get(), bytes.data(), bytes.size(), text, flags);
        bytes.resize(n);
        return bytes;
    } catch (const std::exception&) {
        return {};  // it is read again
    }
}

bool LlamaModel::set_state(std::size_t sequence, const std::vector<std::uint8_t>& bytes,
                           llama_state_seq_flags flags) {
    try {
        ensure_context();
        const AssertionGuard guard;
        return llama_state_seq_set_data_ext(context_.get(), bytes.data(), bytes.size(),
                                            static_cast<llama_seq_id>(sequence), flags) == bytes.size();
    } catch (const std::exception&) {
        return false;
    }
}

// Without the cache of all tokens that a hybrid model's attention, and a windowed one's, has beside the rest:
// that can be cut off.
std::vector<std::uint8_t> LlamaModel::checkpoint(std::size_t sequence) {
    return state(sequence, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY);
}

bool LlamaModel::go_back(std::size_t sequence, std::size_t n_tokens, const std::vector<std::uint8_t>& bytes) {
    const auto text = static_cast<llama_seq_id>(sequence);
    const auto n = static_cast<llama_pos>(n_tokens);
    if (!set_state(sequence, bytes, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY)) return false;
    // What was put back ends there, so that only the cache of all tokens is cut.
    llama_memory_t memory = llama_get_memory(context_.get());
    return llama_memory_seq_rm(memory, text, n, -1) && llama_memory_seq_pos_max(memory, text) == n - 1;
}

std::vector<std::uint8_t> LlamaModel::save(std::size_t sequence) {
    return state(sequence, LLAMA_STATE_SEQ_FLAGS_NONE);
}

bool LlamaModel::restore(std::size_t sequence, std::size_t n_tokens, const std::vector<std::uint8_t>& bytes) {
    return set_state(sequence, bytes, LLAMA_STATE_SEQ_FLAGS_NONE) &&
           llama_memory_seq_pos_max(llama_get_memory(context_.get()), static_cast<llama_seq_id>(sequence)) ==
               static_cast<llama_pos>(n_tokens) - 1;
}

bool LlamaModel::is_state(const std::vector<std::uint8_t>& bytes) const {
    return !state_mark_.empty() && bytes.size() > state_mark_.size() &&
           std::equal(state_mark_.begin(), state_mark_.end(), bytes.begin());
}

}  // namespace colm::llama
