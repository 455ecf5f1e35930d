#include "llama/pair.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "colm/error.h"
#include "colm/local_expert.h"
#include "colm/replay.h"
#include "colm/shown.h"
#include "llama/sampler.h"
#include "llama/vocab.h"

namespace colm::llama {
namespace {

// Rows of logits that an assistant with `n_slots` slots keeps: those of a whole draft of one text, or of a
// few draft tokens of each of a few texts.
std::size_t n_rows(std::size_t n_slots) {
    return std::max({std::size_t{kMostLookahead + 1}, n_slots, std::min<std::size_t>(4 * n_slots, 64)});
}

void check_saved(LocalExpert& expert, const SavedSlot& saved) {
    auto& model = static_cast<LlamaModel&>(expert.model());
    const std::size_t n = saved.held.size();
    if (n == 0 || n > expert.n_ctx())
        throw SessionError("a text in it has " + std::to_string(n) + " tokens and " + model.path() +
                           " was loaded with n_ctx " + std::to_string(expert.n_ctx()) +
                           "; load the pair with a larger one");
    for (const Token token : saved.held)
        if (token < 0 || static_cast<std::size_t>(token) >= model.n_vocab())
            throw SessionError("a text in it has token " + std::to_string(token) + ", which " + model.path() +
                               " does not know");
    std::size_t before = 0;
    for (const Checkpoint& checkpoint : saved.checkpoints) {
        if (checkpoint.n_tokens <= before || checkpoint.n_tokens > n)
            throw SessionError("a checkpoint in it lies behind " + std::to_string(checkpoint.n_tokens) +
                               " tokens; in its text of " + std::to_string(n) +
                               " it must lie behind the one before, at " + std::to_string(before));
        before = checkpoint.n_tokens;
        if (!model.is_state(*checkpoint.state))
            throw SessionError("a checkpoint in it (" + std::to_string(checkpoint.state->size()) +
                               " bytes) is none that llama.cpp wrote for " + model.path());
    }
    if (!model.is_state(saved.state))
        throw SessionError("a state in it (" + std::to_string(saved.state.size()) +
                           " bytes) is none that llama.cpp wrote for " + model.path());
}

}  // namespace

void check_options(const GenerationOptions& options) {
    const Policy policy(options.policy);
    const Mixer mixer(options.strategy);
    const StrategyOptions& strategy = options.strategy;
    const bool proxy = strategy.strategy == Strategy::proxy;
    require(!proxy || (!strategy.proxy_tuned.empty() && !strategy.proxy_untuned.empty()),
            "the strategy proxy compares two experts; name them by proxy_tuned and proxy_untuned");
    require(!proxy || strategy.proxy_tuned != strategy.proxy_untuned,
            "proxy_tuned and proxy_untuned are both " + strategy.proxy_tuned + "; give two experts");
    const TextStream text(options.stop);
    LlamaSampler::check(options.sampling);
    check_ranges<TextOptions>(options);
}

Pair::Pair(const std::vector<Member>& members, std::size_t n_parallel, std::size_t cache_bytes, Room room,
           std::vector<RemoteMember> remotes)
    : remotes_(std::move(remotes)), cache_bytes_(cache_bytes), room_(std::move(room)) {
    std::vector<Member> writing = members;
    for (std::size_t i = 0; i < writing.size(); ++i) {
        const auto least = i == 0 ? kMostRunOutputs : static_cast<std::uint32_t>(n_rows(1));
        writing[i].options.n_outputs = std::max(writing[i].options.n_outputs, least);
        names_.push_back(writing[i].name);
    }
    models_ = load_members(writing, remotes_.size());
    for (const RemoteMember& remote : remotes_) {
        require(remote.id >= 1 && remote.id <= models_.size(), "an expert elsewhere has no place");
        models_.insert(models_.begin() + remote.id, models_.front());
        names_.insert(names_.begin() + remote.id, remote.name);
    }
    std::size_t most_ids = std::numeric_limits<std::size_t>::max();
    for (const RemoteMember& remote : remotes_)
        if (remote.n_ids > 0) most_ids = std::min(most_ids, remote.n_ids);
    vocabularies_ = std::make_unique<const Vocabularies>(models_, names_, most_ids);
    fingerprint_ = fingerprint(base().vocabulary());
    if (n_parallel == 1) {
        loop_ = make_loop(models_);
        return;
    }
    for (const auto& model : models_) model->free_context();
    loop_ = make_loop(n_parallel, true);
}

std::shared_ptr<SharedLoop> Pair::make_loop(const Models& models) const {
    Loop::Experts experts;
    std::size_t left = cache_bytes_;
    // A quarter of the cache is for the checkpoints of models that need them, of texts that are in slots;
    // more than two share a half.
    const std::size_t quarter = cache_bytes_ / (models.size() == 2 ? 4 : 2 * models.size());
    for (const auto& model : models) {
        if (const RemoteMember* elsewhere = remote(static_cast<ExpertId>(experts.size()))) {
            const RemoteLimits limits{models.front()->n_sequences(), elsewhere->n_ctx, elsewhere->n_counts,
                                      vocabularies_->n_ids(kBase), elsewhere->replaceable};
            experts.push_back(std::make_unique<RemoteExpert>(elsewhere->calls, limits));
            continue;
        }
        // A text may never need one of several, nor a batch its assistant. First passes at load have shown
        // what can go wrong.
        const auto id = static_cast<ExpertId>(experts.size());
        if (id != kBase && (models.size() > 2 || !model->has_context()))
            model->free_context_until_read(names_[id], [room = room_, id, n = model->n_sequences()] {
                return room ? room(id, n) : std::uint64_t{0};
            });
        const std::size_t of_checkpoints = model->can_rewind() ? 0 : quarter;
        left -= of_checkpoints;
        experts.push_back(std::make_unique<LocalExpert>(model, id, vocabularies_->n_ids(id), of_checkpoints));
    }
    return std::make_shared<SharedLoop>(
        std::make_unique<Loop>(std::move(experts), vocabularies_->choices(), left));
}

std::shared_ptr<SharedLoop> Pair::make_loop(std::size_t n_slots, bool at_load) const {
    Models models;
    for (const auto& model : models_) {
        if (remote(static_cast<ExpertId>(models.size())) != nullptr) {
            models.push_back(models.front());
            continue;
        }
        models.push_back(model->for_batches(
            n_slots, models.empty() ? std::max<std::size_t>(n_slots, kMostRunOutputs) : n_rows(n_slots)));
        if (at_load || models.size() == 1) models.back()->make_context();  // the base's at once
    }
    return make_loop(models);
}

const RemoteMember* Pair::remote(ExpertId expert) const {
    for (const RemoteMember& remote : remotes_)
        if (remote.id == expert) return &remote;
    return nullptr;
}

void Pair::stop_remotes() {
    if (remotes_.empty()) return;
    std::vector<std::shared_ptr<SharedLoop>> loops = {loop_};
    {
        const std::lock_guard<std::mutex> lock(wide_mutex_);
        if (wide_) loops.push_back(wide_);
    }
    for (const auto& loop : loops)
        for (const auto& expert : loop->experts())
            if (auto* elsewhere = dynamic_cast<RemoteExpert*>(expert.get())) elsewhere->stop();
}

bool Pair::has_loop(std::size_t n_slots) const {
    const std::lock_guard<std::mutex> lock(wide_mutex_);
    return n_slots <= loop_->n_slots() || (wide_ && wide_->n_slots() == n_slots);
}

std::shared_ptr<SharedLoop> Pair::loop(std::size_t n_slots) {
    if (n_slots <= loop_->n_slots()) return loop_;
    const std::lock_guard<std::mutex> lock(wide_mutex_);
    if (wide_ && wide_->n_slots() == n_slots) return wide_;
    wide_.reset();  // its memory first
    wide_ = make_loop(n_slots, false);
    return wide_;
}

void Pair::forget() {
    {
        const std::lock_guard<std::mutex> lock(wide_mutex_);
        wide_.reset();
    }
    loop_->alone([](Loop& loop) { loop.forget(); });
}

std::vector<KnownText> Pair::known_texts() {
    std::vector<KnownText> texts;
    loop_->alone([&](Loop& loop) { texts = loop.known(); });
    return texts;
}

// llama.cpp is given only what fits.
void Pair::know_texts(const std::vector<KnownText>& texts) {
    loop_->alone([&](Loop& loop) {
        for (const KnownText& text : texts) {
            if (text.parts.size() != loop.experts().size())
                throw SessionError("a text in it was read by " + std::to_string(text.parts.size()) +
                                   " models, and this pair has " + std::to_string(loop.experts().size()));
            for (std::size_t e = 0; e < text.parts.size(); ++e)
                if (text.parts[e] && remote(static_cast<ExpertId>(e)) != nullptr)
                    throw SessionError("a text in it was read by " + names_[e] + ", which is elsewhere");
                else if (text.parts[e])
                    check_saved(static_cast<LocalExpert&>(*loop.experts()[e]), *text.parts[e]);
        }
        if (!loop.know(texts))
            throw SessionError("llama.cpp refuses a state in it; was it saved with other options?");
    });
}

// The experts that `proxy` compares, by the names in the options.
ProxyPair Pair::proxy_pair(const StrategyOptions& options, const Writing::OwnPrompts& own_prompts) const {
    if (options.strategy != Strategy::proxy) return {};
    require(n_models() > 2, "the strategy proxy compares two experts, and this pair has one, " + names_[1] +
                                "; load it with two, or use contrastive or add");
    std::string experts = names_[1];
    for (std::size_t i = 2; i < names_.size(); ++i)
        experts += (i + 1 < names_.size() ? ", " : " and ") + names_[i];
    const auto find = [&](const char* option, const std::string& name) {
        const auto found = std::find(names_.begin() + 1, names_.end(), name);
        require(found != names_.end(),
                std::string(option) + " is " + shown(name) + "; the experts of this pair are " + experts);
        return static_cast<ExpertId>(found - names_.begin());
    };
    const ProxyPair proxy{find("proxy_tuned", options.proxy_tuned),
                          find("proxy_untuned", options.proxy_untuned)};
    const auto own = [&](ExpertId expert) {
        const auto found = own_prompts.find(expert);
        return found == own_prompts.end() ? nullptr : &found->second;
    };
    const auto* one = own(proxy.tuned);
    const auto* other = own(proxy.untuned);
    const bool same_prompt = one == other || (one != nullptr && other != nullptr && *one == *other);
    require(!same_prompt || !remotes_.empty() ||
                !same_weights(models_[proxy.tuned]->options(), models_[proxy.untuned]->options()),
            options.proxy_tuned + " and " + options.proxy_untuned +
                " are the same model with the same prompt (" + models_[proxy.tuned]->path() +
                "), so there is no difference to add; give two models, or each a prompt of its own");
    return proxy;
}

Writing Pair::write(std::vector<Token> prompt, std::shared_ptr<const Head> head,
                    const GenerationOptions& options, Writing::OwnPrompts own_prompts) const {
    check_head(*head);
    check_prompt(prompt, kBase);
    for (const auto& [expert, own] : own_prompts) {
        if (own.empty())
            throw TokenizeError("prompt of " + name(expert) +
                                ": the prompt has no tokens; give at least one character");
        check_prompt(own, expert);
    }
    check_options(options);
    if (!vocabularies_->alike()) check_unlike(options);
    if (!remotes_.empty()) check_remote(options);
    const std::vector<Token>& blocked = vocabularies_->blocked(kBase);
    const Token defer_token = head->defer_token();
    for (const auto& entry : options.sampling.logit_bias) {
        const bool is_head = defer_token != kNoToken && entry.first == defer_token;
        if (is_head || std::binary_search(blocked.begin(), blocked.end(), entry.first))
            throw OptionError("logit_bias names token " + std::to_string(entry.first) +
                              ", which is never chosen (it is " + (is_head ? "the head" : "padding") + ")");
    }
    Deciders deciders{std::move(head),
                      Policy(options.policy),
                      Mixer(options.strategy, proxy_pair(options.strategy, own_prompts)),
                      sampler(options.sampling, kBase),
                      options.sampling.seed,
                      static_cast<std::size_t>(options.logprobs)};
    std::vector<std::vector<Token>> prompts;  // of unlike vocabularies
    for (ExpertId expert = 0; expert < n_models() && !vocabularies_->alike(); ++expert) {
        auto own = own_prompts.find(expert);
        ExpertId first = 0;
        while (!vocabularies_->same(first, expert)) ++first;
        if (first != kBase) {
            if (own == own_prompts.end())
                own = own_prompts.emplace(expert, vocabularies_->translated(prompt, expert)).first;
            deciders.own_samplers.resize(n_models());
            deciders.own_samplers[expert] =
                first == expert ? sampler(options.sampling, expert) : deciders.own_samplers[first];
        }
        prompts.push_back(own == own_prompts.end() ? prompt : own->second);
    }
    // What is made here outlives this object where a text does; the loop that writes it owns the
    // vocabularies.
    return Writing(std::move(prompt), n_ctx(), std::move(deciders),
                   {options.max_tokens, options.stop, vocabularies_->stop_tokens(options.stop)},
                   vocabularies_->pieces(), vocabularies_->ends_text(), std::move(own_prompts),
                   vocabularies_->shared_text(prompts));
}

std::unique_ptr<Sampler> Pair::sampler(const SamplingOptions& options, ExpertId expert) const {
    auto made =
        std::make_unique<LlamaSampler>(options, vocabularies_->vocab(expert), vocabularies_->n_ids(expert),
                                       options.grammar.empty() ? nullptr : vocabularies_->texts(expert));
    if (!vocabularies_->alike() && made->names_tokens())
        throw GrammarError(
            "the grammar names tokens, and the models of this pair have unlike vocabularies; write "
            "the tokens' text as a string");
    return made;
}

// What needs tokens that all models share.
void Pair::check_unlike(const GenerationOptions& options) const {
    const auto refuse = [](const std::string& what, const std::string& advice) {
        throw OptionError(what + ", and the models of this pair have unlike vocabularies; " + advice);
    };
    if (options.strategy.strategy != Strategy::defer)
        refuse("strategy " +
                   std::string(kStrategies.all[static_cast<std::size_t>(options.strategy.strategy)]) +
                   " mixes distributions over the same tokens",
               "use defer");
    if (!options.sampling.logit_bias.empty())
        refuse("logit_bias names token " + std::to_string(options.sampling.logit_bias.front().first) +
                   " by its id",
               "leave it out");
}

// What needs the probability of every token.
void Pair::check_remote(const GenerationOptions& options) const {
    require(options.strategy.strategy == Strategy::defer,
            "strategy " + std::string(kStrategies.all[static_cast<std::size_t>(options.strategy.strategy)]) +
                " needs the probability of every token, and " + expert_in_words(remotes_.front().name) +
                ", which is on another machine, names the likeliest alone; use defer");
}

std::shared_ptr<const Head> Pair::token_head(const std::string& text) const {
    const std::vector<std::string>& texts = base().vocabulary().texts;
    const auto found = std::find(texts.begin(), texts.end(), text);
    if (found == texts.end())
        throw HeadError("the base " + base().path() + " has no token \"" + text +
                        "\" that could serve as the head");
    return std::make_shared<TokenHead>(static_cast<Token>(found - texts.begin()));
}

void Pair::check_head(const Head& head) const {
    if (head.n_scores() != n_models() - 1)
        throw HeadMismatch("the head is for " + std::to_string(head.n_scores()) + " expert" +
                           (head.n_scores() == 1 ? "" : "s") + " and the pair has " +
                           std::to_string(n_models() - 1) + "; use a head that was made for these experts");
    const auto* directed = dynamic_cast<const DirectedHead*>(&head);
    const auto* learned = dynamic_cast<const LearnedHead*>(directed == nullptr ? &head : &directed->head());
    if (learned == nullptr) return;
    const HeadInfo& info = learned->info();
    if (info.n_embd != base().n_embd())
        throw HeadMismatch("the head takes hidden states of width " + std::to_string(info.n_embd) +
                           " and the base " + base().path() + " has width " +
                           std::to_string(base().n_embd()) + "; use the head that was trained for this base");
    if (!info.vocab_fingerprint.empty() && info.vocab_fingerprint != fingerprint_)
        throw HeadMismatch("the head was made for a vocabulary with fingerprint " + info.vocab_fingerprint +
                           " and the base " + base().path() + " has " + fingerprint_ +
                           "; use the head that was trained for this base");
}

void Pair::check_prompt(const std::vector<Token>& prompt, ExpertId expert) const {
    const std::size_t n_ids = vocabularies_->n_ids(expert);
    for (std::size_t i = 0; i < prompt.size(); ++i) {
        const Token token = prompt[i];
        if (token >= 0 && static_cast<std::size_t>(token) < n_ids) continue;
        const auto& texts = model(expert).vocabulary().texts;
        const bool known = token >= 0 && static_cast<std::size_t>(token) < texts.size();
        throw TokenizeError((expert == kBase ? "" : "prompt of " + name(expert) + ": ") + "prompt token " +
                            std::to_string(i) + " is id " + std::to_string(token) +
                            (known ? " (\"" + texts[static_cast<std::size_t>(token)] + "\")" : "") + "; " +
                            (!vocabularies_->alike() ? expert_in_words(name(expert)) + " knows"
                             : n_models() == 2       ? "base and assistant share"
                                                     : "the models share") +
                            " the ids from 0 to " + std::to_string(n_ids - 1));
    }
}

std::vector<double> Pair::replay(const std::vector<Token>& tokens, const std::vector<DecodeCall>& calls,
                                 std::size_t n_texts, Interrupt& interrupt) {
    require(remotes_.empty(), "decodes cannot be repeated where an expert is on another machine, which " +
                                  (remotes_.empty() ? "" : remotes_.front().name) + " is");
    std::vector<std::vector<Token>> stand_ins;  // by expert, of unlike vocabularies
    for (ExpertId expert = 0; expert < n_models() && !vocabularies_->alike(); ++expert) {
        std::size_t n = tokens.size();
        for (const DecodeCall& call : calls)
            if (call.expert == expert && call.position >= 0 && call.n_tokens >= 0)
                n = std::max(
                    n, static_cast<std::size_t>(call.position) + static_cast<std::size_t>(call.n_tokens));
        stand_ins.emplace_back(std::min(n, n_ctx()), Token{0});
    }
    if (vocabularies_->alike()) check_prompt(tokens, kBase);
    std::vector<double> seconds;
    loop(n_texts)->alone([&](Loop& loop) {
        std::vector<Replayed> models;
        for (const auto& expert : loop.experts())
            models.push_back({&static_cast<LocalExpert&>(*expert).model(),
                              stand_ins.empty() ? &tokens : &stand_ins[models.size()]});
        loop.forget();
        const std::shared_ptr<void> after(nullptr, [&loop](void*) { loop.forget(); });  // an error, too
        seconds = colm::replay(models, calls, n_texts, interrupt);
    });
    return seconds;
}

std::vector<Token> Pair::tokenize(const std::string& text, bool add_special, bool parse_special,
                                  ExpertId expert) const {
    const LlamaModel& of = model(expert);
    return llama::tokenize(of.vocab(), text, add_special && of.vocabulary().add_bos, parse_special);
}

std::string Pair::detokenize(const std::vector<Token>& tokens, bool special, ExpertId expert) const {
    check_prompt(tokens, expert);
    const LlamaModel& of = model(expert);
    std::string bytes = pieces(of.vocab(), tokens, special, of.vocabulary().space_prefix);
    return take_utf8(bytes, true);
}

}  // namespace colm::llama
