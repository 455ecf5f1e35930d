// How one model is loaded. Names and meaning are those of llama_cpp.Llama.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <tuple>
#include <vector>

namespace colm::llama {

// The base reads a run of up to this many of the assistant's tokens with their hidden states in one batch.
inline constexpr std::uint32_t kMostRunOutputs = 8;

struct ModelOptions {
    std::string path;

    // Tokens that the context holds, at least 2.
    std::uint32_t n_ctx = 4096;
    // Most tokens in one llama_decode, and in one pass of the graph.
    std::uint32_t n_batch = 512;
    std::uint32_t n_ubatch = 512;
    // Threads for single tokens and for batches.
    int n_threads = 1;
    int n_threads_batch = 1;
    // Texts that share the context, the most outputs of one llama_decode, and whether the texts share one
    // cache of n_ctx tokens or each has a part of its own.
    std::uint32_t n_sequences = 1;
    std::uint32_t n_outputs = 1;
    bool kv_unified = true;

    // Layers on the GPU; -1: all.
    int n_gpu_layers = 0;
    int main_gpu = 0;
    // llama_split_mode: 0 none, 1 layer, 2 row.
    int split_mode = 1;
    // Share of the model for each GPU; empty: by free memory.
    std::vector<float> tensor_split;
    bool offload_kqv = true;
    // llama_flash_attn_type: -1 auto, 0 off, 1 on.
    int flash_attn = -1;
    // ggml_type of the K and V cache; 1 is f16.
    int type_k = 1;
    int type_v = 1;
    // Keep the whole context for sliding-window layers, so that the text can be rewound.
    bool swa_full = true;

    // Keep weights in a layout that suits this CPU, where llama.cpp has one for their type.
    bool repack = true;
    // Read no more tokens in a pass (n_ubatch at most) than come out as they do alone, bit for bit. Takes no
    // repacked weights and bf16 in place of an f16 cache.
    bool batch_invariant = false;
    bool use_mmap = true;
    bool use_mlock = false;
    // Ask the system for huge pages where weights are read or repacked into memory (Linux).
    bool huge_pages = true;
    // 0: from the model.
    float rope_freq_base = 0.0f;
    float rope_freq_scale = 0.0f;

    // Adapters (path, scale, SHA-256 of the file; the last only tells models with different adapters apart).
    std::vector<std::tuple<std::string, float, std::string>> lora;

    // Called with the loaded fraction in [0, 1]; false stops the load.
    std::function<bool(float)> progress;
};

}  // namespace colm::llama
