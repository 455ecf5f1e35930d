// A GGUF model in llama.cpp, as the method sees it.
#pragma once

#include <llama-cpp.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "colm/language_model.h"
#include "colm/vocabulary.h"
#include "llama/model_options.h"
#include "llama/rpc.h"

namespace colm::llama {

class LlamaModel final : public LanguageModel {
  public:
    // Loads the file, or with `loaded` takes the weights of that model, which must have been loaded with the
    // same options of weights. Throws OptionError for an option outside its range, LoadError for everything
    // about the file.
    explicit LlamaModel(const ModelOptions& options, const LlamaModel* loaded = nullptr);

    // Another model of the file that this one loaded, with adapters and a context of its own: the weights are
    // in memory once. Requires same_file(). Throws OptionError, LoadError.
    std::shared_ptr<LlamaModel> sibling(const ModelOptions& options) const;

    // Another context on the same weights, for `n_sequences` texts at a time, each with a cache of its own
    // for as many tokens as this one holds, and `n_outputs` outputs in a batch. llama.cpp makes it in
    // make_context(), or when the first tokens are read. Throws OptionError, LoadError.
    std::unique_ptr<LlamaModel> for_batches(std::size_t n_sequences, std::size_t n_outputs) const;
    // Throws LoadError.
    void make_context();
    bool has_context() const { return context_ != nullptr; }
    // Frees the context, and leaves the weights and what is known of them.
    void free_context();
    // The same; the next tokens to be read make it again. `room` is asked then: it returns the bytes that the
    // context is estimated to take, 0 where that is unknown, and may throw. Where llama.cpp cannot make it,
    // eval_batch() throws NotEnoughMemory, which names the model as `name`.
    void free_context_until_read(std::string name, std::function<std::uint64_t()> room);

    std::size_t n_vocab() const override { return weights_->vocabulary.size(); }
    std::size_t n_embd() const override { return n_embd_; }
    std::size_t n_ctx() const override { return n_ctx_; }
    std::size_t n_batch() const override { return n_batch_; }
    std::size_t n_outputs() const override { return n_outputs_; }
    std::size_t n_sequences() const override { return n_sequences_; }
    void eval_batch(View<const BatchToken> slots, bool hidden, Interrupt& interrupt) override;
    Output output(std::size_t i) override;
    std::size_t rewind(std::size_t sequence, std::size_t n_tokens) override;
    std::vector<std::uint8_t> checkpoint(std::size_t sequence) override;
    bool go_back(std::size_t sequence, std::size_t n_tokens, const std::vector<std::uint8_t>& bytes) override;
    std::vector<std::uint8_t> save(std::size_t sequence) override;
    bool restore(std::size_t sequence, std::size_t n_tokens, const std::vector<std::uint8_t>& bytes) override;
    std::size_t copy(std::size_t from, std::size_t to, std::size_t n_tokens) override;
    void forget(std::size_t sequence) override;
    void clear() override;

    const Vocabulary& vocabulary() const { return weights_->vocabulary; }
    const llama_vocab* vocab() const { return llama_model_get_vocab(model()); }
    const std::string& path() const { return path_; }
    // As in the options.
    const auto& adapters() const { return options_.lora; }
    const ModelOptions& options() const { return options_; }
    // Whether bytes begin as the states of sequences do.
    bool is_state(const std::vector<std::uint8_t>& bytes) const;
    // The most tokens of one pass of the graph.
    std::size_t n_ubatch() const { return n_ubatch_; }
    std::size_t n_ctx_train() const;
    std::string description() const;
    // Metadata value of the file as text; "" where the key is absent.
    std::string metadata(const std::string& key) const;
    // The chat template in the file; "" where there is none.
    std::string chat_template() const;
    // False for recurrent and hybrid models, and for a sliding window without `swa_full`: they can only
    // forget the whole text.
    bool can_rewind() const override;

  private:
    // What all contexts of a model share. Adapters are freed with the file.
    struct Weights {
        RpcServers servers;  // before the model, which is freed through them
        std::shared_ptr<llama_model> model;
        Vocabulary vocabulary;
        std::vector<llama_adapter_lora*> adapters;
        std::vector<float> scales;
        mutable std::atomic<bool> read_batches{false};  // whether a context for batches was warmed up
    };
    struct Batch {
        std::vector<Token> tokens;
        std::vector<llama_pos> positions;
        std::vector<std::int32_t> n_seq_ids;
        std::vector<llama_seq_id*> seq_ids;
        std::vector<std::int8_t> outputs;
        std::vector<llama_seq_id> sequences;
    };

    LlamaModel(std::shared_ptr<const Weights> weights, ModelOptions options);
    struct OfFile {};
    LlamaModel(OfFile, const ModelOptions& options, const Weights& file);

    llama_model* model() const { return weights_->model.get(); }
    void check_options() const;
    void load(const ModelOptions& options);
    void begin();
    void load_adapters(Weights& weights) const;
    void set_sizes();
    void create_context();
    void ensure_context();
    void measure_invariant_pass();
    // Throws LoadError where the model cannot be computed with, or when it was told to stop.
    void warm_up(Interrupt& interrupt);
    void first_passes(bool hidden, Interrupt& interrupt);
    void add_adapters();
    std::vector<std::uint8_t> state(std::size_t sequence, llama_state_seq_flags flags);
    bool set_state(std::size_t sequence, const std::vector<std::uint8_t>& bytes, llama_state_seq_flags flags);
    void set_token(std::size_t i, const BatchToken& token);
    void decode(std::size_t n_tokens, bool hidden, Interrupt& interrupt);

    ModelOptions options_;
    std::string path_;
    std::shared_ptr<const Weights> weights_;
    llama_context_ptr context_;  // declared after the weights, so that it dies first
    std::string name_;           // see free_context_until_read()
    std::function<std::uint64_t()> room_;
    Batch batch_;
    std::size_t n_embd_ = 0;
    std::size_t n_ctx_ = 0;
    std::size_t n_batch_ = 0;
    std::size_t n_ubatch_ = 0;
    std::size_t n_outputs_ = 1;
    std::size_t n_sequences_ = 1;
    std::uint32_t invariant_pass_ = 0;      // tokens of a pass at most, of a model that is invariant
    std::vector<std::uint8_t> state_mark_;  // how llama.cpp's states of sequences begin
    bool can_rewind_ = true;
    bool swa_full_ = true;
    bool embeddings_ = false;         // what the context is switched to
    std::string no_hidden_;           // why llama.cpp gives no hidden state, where it does not
    Interrupt* interrupt_ = nullptr;  // of the eval() in progress, for llama.cpp's abort callback
};

}  // namespace colm::llama
