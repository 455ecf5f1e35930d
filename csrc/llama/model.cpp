#include "llama/model.h"

#include <algorithm>
#include <exception>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <system_error>
#include <tuple>
#include <utility>

#include "colm/batch_invariance.h"
#include "colm/error.h"
#include "llama/backend.h"
#include "llama/file_checks.h"
#include "llama/huge_pages.h"
#include "llama/model_file.h"
#include "llama/vocab.h"

namespace colm::llama {
namespace {

// Tokens of a pass of an invariant model at most; look-ahead asks for no more outputs.
constexpr std::size_t kMostInvariant = 16;
constexpr std::uint32_t kWarmUpCells = 256;  // for each text; llama.cpp makes no smaller cache

bool report_progress(float fraction, void* callback) {
    return (*static_cast<const std::function<bool(float)>*>(callback))(fraction);
}

// Whether the weights may lie in a large mapping. The first part of a split model may be small.
bool may_be_large(const std::string& path) {
    std::error_code unknown;
    const auto bytes = std::filesystem::file_size(std::filesystem::u8path(path), unknown);
    return unknown || bytes >= HugePages::kLeast || path.find("-of-") != std::string::npos;
}

}  // namespace

LlamaModel::LlamaModel(const ModelOptions& options, const LlamaModel* loaded)
    : options_(options.batch_invariant ? reading_rows_alike(options) : options), path_(options.path) {
    check_options();
    if (loaded == nullptr) {
        load(options_);
    } else {
        require(
            same_weights(options_, loaded->options_),
            path_ +
                " is loaded with other options of weights than were asked for; use the same lora, repack, "
                "use_mmap, use_mlock and GPU options");
        weights_ = loaded->weights_;
    }
    begin();
}

LlamaModel::LlamaModel(OfFile, const ModelOptions& options, const Weights& file)
    : options_(options.batch_invariant ? reading_rows_alike(options) : options), path_(options.path) {
    check_options();
    auto weights = std::make_shared<Weights>();
    weights->servers = file.servers;
    weights->model = file.model;
    weights->vocabulary = file.vocabulary;
    weights_ = weights;
    load_adapters(*weights);
    begin();
}

std::shared_ptr<LlamaModel> LlamaModel::sibling(const ModelOptions& options) const {
    return std::shared_ptr<LlamaModel>(new LlamaModel(OfFile{}, options, *weights_));
}

void LlamaModel::check_options() const {
    init_backend();
    check_model_options(options_);
    const std::int64_t n_positions = check_model_file(path_);
    require(n_positions == 0 || options_.n_ctx <= n_positions,
            "n_ctx is " + std::to_string(options_.n_ctx) + " and " + path_ + " has positions for " +
                std::to_string(n_positions) + " tokens; n_ctx must not be more");
}

// Makes the context.
void LlamaModel::begin() {
    const auto progress = std::exchange(options_.progress, {});  // borrows from the caller
    make_context();
    Interrupt stop([&progress] { return progress && !progress(1.0f); });
    warm_up(stop);
    if (options_.batch_invariant) {
        free_context();
        measure_invariant_pass();
        make_context();
    }
}

LlamaModel::LlamaModel(std::shared_ptr<const Weights> weights, ModelOptions options)
    : options_(std::move(options)), path_(options_.path), weights_(std::move(weights)) {
    check_model_options(options_);
    if (!weights_->read_batches.exchange(true)) {
        // The first passes need few cells, and all cells are cleared after them.
        const std::uint32_t n_ctx = options_.n_ctx;
        options_.n_ctx = std::min(n_ctx, kWarmUpCells * options_.n_sequences);
        make_context();
        Interrupt never;
        warm_up(never);
        free_context();
        options_.n_ctx = n_ctx;
    }
    set_sizes();
}

std::unique_ptr<LlamaModel> LlamaModel::for_batches(std::size_t n_sequences, std::size_t n_outputs) const {
    require(n_sequences >= 1 && n_sequences <= std::min<std::size_t>(kMaxSequences, n_batch_),
            std::to_string(n_sequences) + " texts at a time were asked for; between 1 and " +
                std::to_string(std::min<std::size_t>(kMaxSequences, n_batch_)) +
                " are possible (a batch holds n_batch tokens, and llama.cpp knows 256 sequences)");
    const std::uint64_t n_cells = std::uint64_t{options_.n_ctx} * n_sequences;
    require(n_cells <= kMaxContext,
            std::to_string(n_sequences) + " texts of n_ctx " + std::to_string(options_.n_ctx) +
                " tokens are more than a context can hold; use fewer or shorter ones");
    ModelOptions options = options_;
    options.n_ctx = static_cast<std::uint32_t>(n_cells);
    options.n_sequences = static_cast<std::uint32_t>(n_sequences);
    options.n_outputs = static_cast<std::uint32_t>(n_outputs);
    options.kv_unified = false;
    if (options.batch_invariant && n_sequences > 1) {
        require(invariant_pass_ > 1,
                "llama.cpp computes two tokens of " + path_ +
                    " otherwise than each alone, or they cannot be compared, so that several texts at a time "
                    "are not what each is alone; write them one at a time, or load without batch_invariant");
        // llama.cpp takes a token of one sequence more than it is told.
        options.n_ubatch = std::min(options.n_ubatch, invariant_pass_ - 1);
    }
    std::unique_ptr<LlamaModel> batches(new LlamaModel(weights_, std::move(options)));
    batches->no_hidden_ = no_hidden_;
    return batches;
}

void LlamaModel::make_context() {
    create_context();
    add_adapters();
}

void LlamaModel::free_context() {
    context_.reset();
    embeddings_ = false;
}

void LlamaModel::free_context_until_read(std::string name, std::function<std::uint64_t()> room) {
    free_context();
    name_ = std::move(name);
    room_ = std::move(room);
}

void LlamaModel::ensure_context() {
    if (context_) return;
    const std::uint64_t bytes = room_ ? room_() : 0;
    try {
        make_context();
    } catch (const LoadError& error) {
        free_context();
        const std::string needs =
            bytes == 0 ? "" : " It is estimated to need " + std::to_string(bytes / 1000000) + " MB.";
        throw NotEnoughMemory("the first token of " + expert_in_words(name_) + " needs a context, and " +
                                  error.what() + "." + needs,
                              name_, static_cast<std::int64_t>(bytes));
    }
}

// With passes, batches and a context as large as the measurement needs: smaller ones that were asked for
// would cut what is to be compared into pieces that are all alike.
void LlamaModel::measure_invariant_pass() {
    if (options_.flash_attn == 0) {
        // Where the next weights are quantized, what its products round otherwise is mostly lost, not always.
        require(options_.n_sequences == 1,
                "without flash attention, which is off with an f32 cache unless it is asked for, attention "
                "over a "
                "cache that several texts share depends on where each stands in it; load " +
                    path_ + " with flash_attn=True or another KV type, or without batch_invariant");
        options_.n_ubatch = invariant_pass_ = 1;
        return;
    }
    constexpr auto kMost = static_cast<std::uint32_t>(kMostInvariant);
    const ModelOptions given = options_;
    options_.n_ctx = std::max(given.n_ctx, kMost + 2);
    options_.n_batch = std::max(given.n_batch, kMost);
    options_.n_ubatch = std::max(given.n_ubatch, kMost);
    options_.n_outputs = std::max({given.n_outputs, given.n_sequences, kMost});
    make_context();
    Interrupt interrupt;
    invariant_pass_ = static_cast<std::uint32_t>(invariant_batch(*this, kMost, interrupt));
    free_context();
    options_ = given;
    options_.n_ubatch = std::min(given.n_ubatch, invariant_pass_);
}

void LlamaModel::load(const ModelOptions& o) {
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = o.n_gpu_layers;
    params.main_gpu = o.main_gpu;
    params.split_mode = static_cast<llama_split_mode>(o.split_mode);
    std::vector<float> tensor_split = o.tensor_split;
    tensor_split.resize(max_devices(), 0.0f);
    if (!o.tensor_split.empty()) params.tensor_split = tensor_split.data();
    auto weights = std::make_shared<Weights>();
    for (const std::string& address : o.rpc_servers) weights->servers.push_back(RpcServer::connect(address));
    std::vector<ggml_backend_dev_t> devices;
    if (!weights->servers.empty()) {  // else llama.cpp chooses
        devices = devices_of(weights->servers);
        params.devices = devices.data();
    }
    params.use_extra_bufts = o.repack;
    params.load_mode = o.use_mmap ? (o.use_mlock ? LLAMA_LOAD_MODE_MMAP_MLOCK : LLAMA_LOAD_MODE_MMAP)
                                  : (o.use_mlock ? LLAMA_LOAD_MODE_MLOCK : LLAMA_LOAD_MODE_NONE);
    HugePages huge_pages(o.huge_pages && may_be_large(path_));
    bool begun = false;
    std::function<bool(float)> progress = [&](float fraction) {
        // First called when all buffers exist and nothing was written to them.
        if (!std::exchange(begun, true)) huge_pages.advise();
        return !o.progress || o.progress(fraction);
    };
    params.progress_callback = report_progress;
    params.progress_callback_user_data = &progress;
    weights->model = open_model(path_, params);
    weights_ = weights;
    if (llama_model_has_encoder(model()) || !llama_model_has_decoder(model()) ||
        llama_model_is_diffusion(model()))
        throw LoadError(path_ + " (" + description() +
                        ") does not write text from left to right; decoder-only " +
                        "language models are supported");
    weights->vocabulary = read_vocabulary(model(), path_);
    load_adapters(*weights);
}

// What a context of these options has. llama.cpp may give it smaller batches.
void LlamaModel::set_sizes() {
    const ModelOptions& o = options_;
    n_embd_ = static_cast<std::size_t>(llama_model_n_embd_out(model()));
    swa_full_ = o.swa_full;
    // Partial removal is refused by recurrent and hybrid memories; every rewind() checks its result all the
    // same.
    can_rewind_ = !llama_model_is_recurrent(model()) && !llama_model_is_hybrid(model());
    n_ctx_ = o.n_ctx;
    n_batch_ = std::min(o.n_batch, o.n_ctx);
    n_sequences_ = o.n_sequences;
    n_outputs_ = std::min<std::size_t>(o.n_outputs, n_batch_);
}

void LlamaModel::create_context() {
    const ModelOptions& o = options_;
    set_sizes();
    // ggml asserts on rows that are not whole blocks.
    const auto head_size = [this](const char* key) -> std::int64_t {
        const std::string text = metadata(metadata("general.architecture") + key);
        if (!text.empty()) return std::stoll(text);
        return llama_model_n_embd(model()) / std::max(1, llama_model_n_head(model()));
    };
    for (const auto& [name, type, size] :
         {std::tuple("type_k", o.type_k, head_size(".attention.key_length")),
          std::tuple("type_v", o.type_v, head_size(".attention.value_length"))}) {
        const std::int64_t block = ggml_blck_size(static_cast<ggml_type>(type));
        require(size % block == 0, std::string(name) + " stores blocks of " + std::to_string(block) +
                                       " values and an attention head of " + path_ + " has " +
                                       std::to_string(size) + "; use f16 or f32");
    }
    require(o.flash_attn != 0 || !ggml_is_quantized(static_cast<ggml_type>(o.type_v)),
            "a quantized V cache (type_v) needs flash attention; leave flash_attn on");

    llama_context_params params = llama_context_default_params();
    params.n_ctx = o.n_ctx;
    params.n_batch = static_cast<std::uint32_t>(n_batch_);
    params.n_ubatch = std::min<std::uint32_t>(o.n_ubatch, static_cast<std::uint32_t>(n_batch_));
    params.n_seq_max = o.n_sequences;
    params.kv_unified = o.n_sequences > 1 && o.kv_unified;
    // While writing, only the last token of a batch is ever asked for. Without this the output buffer and the
    // graph are sized for logits of a whole batch: 300 MB at 512 tokens and 152,000 ids.
    params.n_outputs_max = static_cast<std::uint32_t>(n_outputs_);
    params.n_threads = o.n_threads;
    params.n_threads_batch = o.n_threads_batch;
    // Of an embedding model, which pools by default, the token's own hidden state is wanted.
    if (!metadata(metadata("general.architecture") + ".pooling_type").empty())
        params.pooling_type = LLAMA_POOLING_TYPE_NONE;
    params.attention_type = LLAMA_ATTENTION_TYPE_CAUSAL;
    params.flash_attn_type = static_cast<llama_flash_attn_type>(o.flash_attn);
    params.type_k = static_cast<ggml_type>(o.type_k);
    params.type_v = static_cast<ggml_type>(o.type_v);
    params.rope_freq_base = o.rope_freq_base;
    params.rope_freq_scale = o.rope_freq_scale;
    params.offload_kqv = o.offload_kqv;
    params.swa_full = o.swa_full;
    params.no_perf = true;
    params.embeddings = false;
    params.abort_callback = [](void* self) {
        Interrupt* interrupt = static_cast<LlamaModel*>(self)->interrupt_;
        return interrupt != nullptr && interrupt->requested();
    };
    params.abort_callback_data = this;
    const std::uint64_t before = log_position();
    // A step reads all weights. Where they are few, pages do not matter.
    HugePages huge_pages(o.huge_pages && llama_model_size(model()) >= HugePages::kLeast);
    try {
        const AssertionGuard guard;
        const OnBuffer on_buffer([&huge_pages] { huge_pages.advise(); });
        context_.reset(llama_init_from_model(model(), params));
    } catch (const std::exception& error) {
        throw LoadError("no context can be made for " + path_ + " (llama.cpp: " + error.what() + ")");
    }
    if (!context_)
        throw LoadError("no context of " + std::to_string(o.n_ctx) + " tokens can be made for " + path_ +
                        llama_cpp_says(before) + "; a smaller n_ctx or KV type needs less memory");
    n_batch_ = llama_n_batch(context_.get());
    n_ubatch_ = llama_n_ubatch(context_.get());
    batch_.tokens.resize(n_batch_);
    batch_.positions.resize(n_batch_);
    batch_.n_seq_ids.assign(n_batch_, 1);
    batch_.seq_ids.resize(n_batch_);
    batch_.sequences.resize(n_batch_);
    batch_.outputs.resize(n_batch_);
    state_mark_ = save(0);  // of a sequence that holds nothing
    state_mark_.resize(std::min(state_mark_.size(), sizeof(std::uint32_t)));
}

void LlamaModel::load_adapters(Weights& weights) const {
    for (const auto& [path, scale, digest] : options_.lora) {
        check_adapter_file(path);
        const std::uint64_t before = log_position();
        llama_adapter_lora* adapter = nullptr;
        try {
            const AssertionGuard guard;
            adapter = llama_adapter_lora_init(model(), path.c_str());
        } catch (const std::exception& error) {
            throw LoadError("the adapter " + path + " cannot be read (llama.cpp: " + error.what() + ")");
        }
        if (adapter == nullptr)
            throw LoadError("the adapter " + path + " cannot be applied to " + path_ +
                            llama_cpp_says(before));
        weights.adapters.push_back(adapter);
        weights.scales.push_back(scale);
    }
}

void LlamaModel::add_adapters() {
    std::vector<llama_adapter_lora*> adapters = weights_->adapters;
    std::vector<float> scales = weights_->scales;
    const std::uint64_t before = log_position();
    if (!adapters.empty() &&
        llama_set_adapters_lora(context_.get(), adapters.data(), adapters.size(), scales.data()) != 0)
        throw LoadError("the adapters of " + path_ + " cannot be applied" + llama_cpp_says(before));
}

std::size_t LlamaModel::n_ctx_train() const {
    return static_cast<std::size_t>(llama_model_n_ctx_train(model()));
}

std::string LlamaModel::description() const {
    char text[256] = {};
    llama_model_desc(model(), text, sizeof text);
    return text;
}

std::string LlamaModel::metadata(const std::string& key) const {
    const std::int32_t n = llama_model_meta_val_str(model(), key.c_str(), nullptr, 0);
    if (n < 0) return {};
    std::string value(static_cast<std::size_t>(n) + 1, '\0');
    llama_model_meta_val_str(model(), key.c_str(), value.data(), value.size());
    value.resize(static_cast<std::size_t>(n));
    return value;
}

std::string LlamaModel::chat_template() const { return llama::chat_template(model()); }

}  // namespace colm::llama
