// Repeats a schedule of decodes that the engine made, with nothing else: no head, no routing, no sampling, no
// text. What it takes is what llama.cpp costs; what the engine takes beyond it is the engine's overhead.
#include <llama.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <vector>

namespace {

struct Model {
    llama_model* model = nullptr;
    llama_context* context = nullptr;
    bool embeddings = false;
};

struct Replay {
    Model models[2];
    std::vector<llama_pos> positions;
    std::vector<std::int32_t> n_seq_ids;
    std::vector<llama_seq_id*> seq_ids;
    std::vector<std::int8_t> outputs;
    llama_seq_id seq_id = 0;
};

bool open_model(Model& m, const char* path, std::uint32_t n_ctx, std::uint32_t n_batch,
                std::int32_t n_threads) {
    m.model = llama_model_load_from_file(path, llama_model_default_params());
    if (m.model == nullptr) return false;
    // The engine's context parameters.
    llama_context_params params = llama_context_default_params();
    params.n_ctx = n_ctx;
    params.n_batch = n_batch;
    params.n_ubatch = n_batch;
    params.n_outputs_max = 1;
    params.n_threads = n_threads;
    params.n_threads_batch = n_threads;
    params.no_perf = true;
    m.context = llama_init_from_model(m.model, params);
    return m.context != nullptr;
}

}  // namespace

extern "C" {

// One call of llama_decode: which model (0 base, 1 assistant), and what the engine asked of it.
struct ReplayCall {
    std::int32_t model;
    std::int32_t position;
    std::int32_t n_tokens;
    std::int32_t outputs;
    std::int32_t hidden;
};

void* replay_open(const char* base, const char* assistant, std::uint32_t n_ctx, std::uint32_t n_batch,
                  std::int32_t n_threads) {
    llama_log_set(
        [](ggml_log_level level, const char* text, void*) {
            if (level == GGML_LOG_LEVEL_WARN || level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
        },
        nullptr);
    auto* replay = new Replay;
    if (!open_model(replay->models[0], base, n_ctx, n_batch, n_threads) ||
        !open_model(replay->models[1], assistant, n_ctx, n_batch, n_threads))
        return nullptr;
    replay->positions.resize(n_batch);
    replay->outputs.resize(n_batch);
    replay->n_seq_ids.assign(n_batch, 1);
    replay->seq_ids.assign(n_batch, &replay->seq_id);
    return replay;
}

// Empties both caches.
void replay_clear(void* handle) {
    for (Model& m : static_cast<Replay*>(handle)->models)
        llama_memory_clear(llama_get_memory(m.context), false);
}

// Seconds for the next calls over the text `tokens`; negative where a decode failed.
double replay_run(void* handle, const ReplayCall* calls, std::int32_t n_calls, std::int32_t* tokens) {
    auto* replay = static_cast<Replay*>(handle);
    const auto start = std::chrono::steady_clock::now();
    for (std::int32_t c = 0; c < n_calls; ++c) {
        const ReplayCall& call = calls[c];
        Model& m = replay->models[call.model];
        if (m.embeddings != (call.hidden != 0)) {
            m.embeddings = call.hidden != 0;
            llama_set_embeddings(m.context, m.embeddings);
        }
        for (std::int32_t i = 0; i < call.n_tokens; ++i) {
            replay->positions[static_cast<std::size_t>(i)] = call.position + i;
            replay->outputs[static_cast<std::size_t>(i)] = 0;
        }
        replay->outputs[static_cast<std::size_t>(call.n_tokens) - 1] = static_cast<std::int8_t>(call.outputs);
        const llama_batch batch{call.n_tokens,
                                tokens + call.position,
                                nullptr,
                                replay->positions.data(),
                                replay->n_seq_ids.data(),
                                replay->seq_ids.data(),
                                replay->outputs.data()};
        if (llama_decode(m.context, batch) != 0) return -1.0;
        // Decoding is asynchronous on a GPU: reading the output waits for it.
        if (call.outputs != 0 && llama_get_logits_ith(m.context, call.n_tokens - 1) == nullptr) return -1.0;
    }
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void replay_close(void* handle) {
    auto* replay = static_cast<Replay*>(handle);
    for (Model& m : replay->models) {
        llama_free(m.context);
        llama_model_free(m.model);
    }
    delete replay;
}
}
