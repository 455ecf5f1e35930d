// Loaded models, a base and its experts, ready to write texts together.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "colm/head.h"
#include "colm/options.h"
#include "colm/stream.h"
#include "llama/members.h"
#include "llama/model.h"
#include "llama/vocabularies.h"

namespace colm::llama {

// Throws OptionError for an option outside its range, whatever the pair.
void check_options(const GenerationOptions& options);

class Pair {
  public:
    // The bytes that a context of an expert with so many slots is estimated to take; 0: unknown. Throws
    // NotEnoughMemory where they are not free.
    using Room = std::function<std::uint64_t(ExpertId expert, std::size_t n_slots)>;

    // Loads the models, the base first, each with a context of `n_parallel` slots. A file that several have
    // in common is in memory once. Of several experts each makes its context at its first turn; `room` is
    // asked then. `cache_bytes`: of what slots held before other texts took them. `remotes`: experts
    // elsewhere, by their ids. Requires two models or more. Throws OptionError, LoadError or VocabMismatch.
    explicit Pair(const std::vector<Member>& members, std::size_t n_parallel = 1, std::size_t cache_bytes = 0,
                  Room room = {}, std::vector<RemoteMember> remotes = {});

    // The loop that has `n_slots` slots or more: the pair's, or a wider one with contexts of its own on the
    // same weights, which stays for the next call until forget() or another width. Texts for it come from
    // write(). Throws OptionError, LoadError.
    std::shared_ptr<SharedLoop> loop(std::size_t n_slots = 1);
    bool has_loop(std::size_t n_slots) const;
    // Forgets every text that was read.
    void forget();
    // Waits for the calls of experts elsewhere, and ends their threads. The pair can write no more then.
    void stop_remotes();
    // What the pair's own slots hold, and what is saved of other texts.
    std::vector<KnownText> known_texts();
    // Forgets every text, and knows these instead. Throws SessionError where one does not fit the models; the
    // pair then knows none.
    void know_texts(const std::vector<KnownText>& texts);

    // A text to be written. `own_prompts`: of experts that read another prompt than the base. Throws
    // OptionError, GrammarError, TokenizeError, ContextFull, HeadMismatch.
    Writing write(std::vector<Token> prompt, std::shared_ptr<const Head> head,
                  const GenerationOptions& options, Writing::OwnPrompts own_prompts = {}) const;

    // The head that is a token of the base's vocabulary. Throws HeadError where there is no such token.
    std::shared_ptr<const Head> token_head(const std::string& text) const;

    // Throws HeadMismatch where the head was made for another base, or for another number of experts.
    void check_head(const Head& head) const;

    // In the vocabulary of an expert. Throw TokenizeError.
    std::vector<Token> tokenize(const std::string& text, bool add_special, bool parse_special,
                                ExpertId expert = kBase) const;
    std::string detokenize(const std::vector<Token>& tokens, bool special, ExpertId expert = kBase) const;

    // replay() of tokens that all models share, in the contexts of loop(n_texts). Throws TokenizeError too.
    // Models of unlike vocabularies read other tokens, as many as the calls need, in the same time.
    std::vector<double> replay(const std::vector<Token>& tokens, const std::vector<DecodeCall>& calls,
                               std::size_t n_texts, Interrupt& interrupt);

    const LlamaModel& base() const { return *models_.front(); }
    const LlamaModel& model(ExpertId expert) const { return *models_[expert]; }
    std::size_t n_models() const { return models_.size(); }
    const std::string& name(ExpertId expert) const { return names_[expert]; }
    const std::string& vocab_fingerprint() const { return fingerprint_; }
    const Vocabularies& vocabularies() const { return *vocabularies_; }
    // How many tokens a text may have: the smallest of the contexts.
    std::size_t n_ctx() const { return loop_->n_ctx(); }

  private:
    ProxyPair proxy_pair(const StrategyOptions& options, const Writing::OwnPrompts& own_prompts) const;
    void check_prompt(const std::vector<Token>& prompt, ExpertId expert) const;
    void check_unlike(const GenerationOptions& options) const;
    void check_remote(const GenerationOptions& options) const;
    const RemoteMember* remote(ExpertId expert) const;
    std::unique_ptr<Sampler> sampler(const SamplingOptions& options, ExpertId expert) const;
    std::shared_ptr<SharedLoop> make_loop(const Models& models) const;
    std::shared_ptr<SharedLoop> make_loop(std::size_t n_slots, bool at_load) const;

    Models models_;  // by expert; the base stands for those that are elsewhere
    std::vector<RemoteMember> remotes_;
    std::vector<std::string> names_;
    std::size_t cache_bytes_;
    Room room_;
    std::string fingerprint_;
    std::unique_ptr<const Vocabularies> vocabularies_;
    std::shared_ptr<SharedLoop> loop_;
    mutable std::mutex wide_mutex_;
    std::shared_ptr<SharedLoop> wide_;  // null until it is asked for
};

}  // namespace colm::llama
