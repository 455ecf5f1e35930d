// Two loaded models with one vocabulary, ready to write texts together.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "colm/generation.h"
#include "colm/head.h"
#include "colm/options.h"
#include "colm/scheduler.h"
#include "llama/model.h"
#include "llama/vocab.h"

namespace colm::llama {

// Throws OptionError for an option outside its range, whatever the pair.
void check_options(const GenerationOptions& options);

class Pair {
  public:
    // Loads both models. Throws OptionError, LoadError or VocabMismatch.
    Pair(const ModelOptions& base, const ModelOptions& assistant);

    // Starts a text. Throws OptionError, GrammarError, TokenizeError, ContextFull, HeadMismatch; nothing is
    // computed before the first next(). `poll_interrupt`: see Interrupt.
    std::shared_ptr<Generation> start(std::vector<Token> prompt, std::shared_ptr<const Head> head,
                                      const GenerationOptions& options,
                                      std::function<bool()> poll_interrupt) const;

    // Another context of each model, for `n_sequences` texts at a time; texts for it come from write().
    // Throws OptionError, LoadError.
    std::shared_ptr<Scheduler> batch(std::size_t n_sequences) const;

    // A text to be written, of at most `n_ctx` tokens. Throws as start() does.
    Writing write(std::vector<Token> prompt, std::shared_ptr<const Head> head,
                  const GenerationOptions& options, std::size_t n_ctx) const;

    // The head that is a token of the base's vocabulary. Throws HeadError where there is no such token.
    std::shared_ptr<const Head> token_head(const std::string& text) const;

    // Throws HeadMismatch where the head was made for another base.
    void check_head(const Head& head) const;

    std::vector<Token> tokenize(const std::string& text, bool add_special, bool parse_special) const;
    std::string detokenize(const std::vector<Token>& tokens, bool special) const;

    // Engine::replay() of tokens that both models share. Throws TokenizeError too.
    std::vector<double> replay(const std::vector<Token>& tokens, const std::vector<DecodeCall>& calls,
                               Interrupt& interrupt);

    const LlamaModel& base() const { return *base_; }
    const LlamaModel& assistant() const { return *assistant_; }
    const std::string& vocab_fingerprint() const { return fingerprint_; }
    std::size_t n_shared() const { return n_shared_; }
    Engine& engine() { return *engine_; }
    const Engine& engine() const { return *engine_; }

  private:
    void check_prompt(const std::vector<Token>& prompt) const;
    std::shared_ptr<const TokenTexts> token_texts() const;

    const LlamaModel* base_;       // owned by the engine
    const LlamaModel* assistant_;  // likewise
    std::size_t n_shared_;
    std::string fingerprint_;
    std::vector<Token> blocked_;                     // ascending
    std::shared_ptr<const std::vector<Token>> eog_;  // of either model, ascending, shared ids only
    mutable std::once_flag texts_made_;              // by the first text with a grammar
    mutable std::shared_ptr<const TokenTexts> texts_;
    std::shared_ptr<Engine> engine_;
};

}  // namespace colm::llama
