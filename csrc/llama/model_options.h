// How one model is loaded. Names and meaning are those of llama_cpp.Llama.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <tuple>
#include <vector>

#include "colm/option.h"

namespace colm::llama {

// The base reads a run of up to this many of the assistant's tokens with their hidden states in one batch.
inline constexpr std::uint32_t kMostRunOutputs = 8;

inline constexpr int kMaxThreads = 512;    // GGML_MAX_N_THREADS
inline constexpr int kMaxSequences = 256;  // LLAMA_MAX_SEQ
inline constexpr int kMaxContext = 1 << 28;
inline constexpr int kMaxBatch = 1 << 20;

// Path, scale, SHA-256 of the file; the last only tells models with different adapters apart.
using Adapters = std::vector<std::tuple<std::string, float, std::string>>;

// n_ctx: tokens that the context holds.
// n_batch, n_ubatch: most tokens in one llama_decode, and in one pass of the graph.
// n_threads, n_threads_batch: threads for single tokens and for batches.
// n_sequences, n_outputs: texts that share the context, and the most outputs of one llama_decode.
// n_gpu_layers: layers on the GPU; -1: all.
// split_mode: llama_split_mode: 0 none, 1 layer, 2 row.
// tensor_split: share of the model for each GPU; empty: by free memory.
// rpc_servers: "host:port" of each machine that holds part of the model, see rpc.h.
// flash_attn: llama_flash_attn_type: -1 auto, 0 off, 1 on.
// type_k, type_v: ggml_type of the K and V cache; 1 is f16.
// swa_full: keep the whole context for sliding-window layers, so that the text can be rewound.
// repack: keep weights in a layout that suits this CPU, where llama.cpp has one for their type.
// batch_invariant: read no more tokens in a pass (n_ubatch at most) than come out as they do alone, bit for
// bit. Takes no repacked weights and bf16 in place of an f16 cache.
// huge_pages: ask the system for huge pages where weights are read or repacked into memory (Linux).
// rope_freq_base, rope_freq_scale: 0: from the model.
#define COLM_MODEL_OPTIONS(OPTION)                                \
    OPTION(std::string, path, {}, no_range)                       \
    OPTION(std::uint32_t, n_ctx, 4096, from(2, kMaxContext))      \
    OPTION(std::uint32_t, n_batch, 512, from(1, kMaxBatch))       \
    OPTION(std::uint32_t, n_ubatch, 512, from(1, kMaxBatch))      \
    OPTION(int, n_threads, 1, from(1, kMaxThreads))               \
    OPTION(int, n_threads_batch, 1, from(1, kMaxThreads))         \
    OPTION(std::uint32_t, n_sequences, 1, from(1, kMaxSequences)) \
    OPTION(std::uint32_t, n_outputs, 1, from(1, kMaxBatch))       \
    OPTION(int, n_gpu_layers, -1, from(-1, 1 << 20))              \
    OPTION(int, main_gpu, 0, from(0, 1 << 10))                    \
    OPTION(int, split_mode, 1, from(0, 2))                        \
    OPTION(std::vector<float>, tensor_split, {}, no_range)        \
    OPTION(std::vector<std::string>, rpc_servers, {}, no_range)   \
    OPTION(bool, offload_kqv, true, no_range)                     \
    OPTION(int, flash_attn, -1, from(-1, 1))                      \
    OPTION(int, type_k, 1, no_range)                              \
    OPTION(int, type_v, 1, no_range)                              \
    OPTION(bool, swa_full, true, no_range)                        \
    OPTION(bool, repack, true, no_range)                          \
    OPTION(bool, batch_invariant, false, no_range)                \
    OPTION(bool, use_mmap, true, no_range)                        \
    OPTION(bool, use_mlock, false, no_range)                      \
    OPTION(bool, huge_pages, true, no_range)                      \
    OPTION(float, rope_freq_base, 0.0f, from(0))                  \
    OPTION(float, rope_freq_scale, 0.0f, from(0))                 \
    OPTION(Adapters, lora, {}, no_range)

struct ModelOptions {
    COLM_OPTIONS(COLM_MODEL_OPTIONS)

    // Whether the texts share one cache of n_ctx tokens or each has a part of its own.
    bool kv_unified = true;
    // Called with the loaded fraction in [0, 1]; false stops the load.
    std::function<bool(float)> progress;
};

// Throws OptionError with the message where the condition is false.
void require(bool condition, const std::string& message);

// Throws OptionError for an option outside its range, whatever the file.
void check_model_options(const ModelOptions& options);

// With those of llama.cpp's kernels on a CPU that treat a row alike whatever stands beside it, as far as
// that can be chosen: repacked weights have kernels for four rows at once, and attention over f16 and f32
// caches has others for one row and for many, as all attention without flash attention has.
ModelOptions reading_rows_alike(ModelOptions options);

// Whether a file that was loaded with the one serves a model with the other, and whether its adapters do,
// too.
bool same_file(const ModelOptions& a, const ModelOptions& b);
bool same_weights(const ModelOptions& a, const ModelOptions& b);

}  // namespace colm::llama
