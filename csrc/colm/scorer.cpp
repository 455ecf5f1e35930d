#include "colm/scorer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "colm/error.h"

namespace colm {
namespace {

constexpr float kNoProbability = -std::numeric_limits<float>::infinity();

std::size_t count_scored(const ScoredText& text) {
    return static_cast<std::size_t>(
        std::count_if(text.scored.begin(), text.scored.end(), [](std::uint8_t s) { return s != 0; }));
}

}  // namespace

Scorer::Scorer(std::shared_ptr<LanguageModel> model, std::size_t n_shared, std::vector<Token> blocked)
    : model_(std::move(model)), n_shared_(n_shared), blocked_(std::move(blocked)) {}

void Scorer::check(const std::vector<ScoredText>& texts) const {
    if (texts.size() > model_->n_sequences())
        throw ContextFull(std::to_string(texts.size()) + " texts were given and the context was made for " +
                              std::to_string(model_->n_sequences()) + " at a time",
                          static_cast<std::int64_t>(texts.size()),
                          static_cast<std::int64_t>(model_->n_sequences()));
    std::size_t n_tokens = 0;
    for (std::size_t i = 0; i < texts.size(); ++i) {
        const ScoredText& text = texts[i];
        const std::string name = "text " + std::to_string(i);
        if (text.scored.size() != text.tokens.size())
            throw OptionError(name + " has " + std::to_string(text.tokens.size()) + " tokens and " +
                              std::to_string(text.scored.size()) + " marks; give one for each");
        if (!text.scored.empty() && text.scored.front() != 0)
            throw OptionError(name + " is to be scored from its first token, which has nothing before it");
        for (std::size_t t = 0; t < text.tokens.size(); ++t) {
            const Token token = text.tokens[t];
            if (token < 0 || static_cast<std::size_t>(token) >= n_shared_ ||
                std::binary_search(blocked_.begin(), blocked_.end(), token))
                throw TokenizeError("token " + std::to_string(t) + " of " + name + " is id " +
                                    std::to_string(token) + ", which the models do not share (ids 0 to " +
                                    std::to_string(n_shared_ - 1) + ")");
        }
        n_tokens += text.tokens.size();
    }
    if (n_tokens > model_->n_ctx())
        throw ContextFull("the texts have " + std::to_string(n_tokens) + " tokens and the context holds " +
                              std::to_string(model_->n_ctx()),
                          static_cast<std::int64_t>(n_tokens), static_cast<std::int64_t>(model_->n_ctx()));
}

Scores Scorer::score(const std::vector<ScoredText>& texts, const Wanted& wanted, Interrupt& interrupt) {
    check(texts);
    Scores scores;
    first_row_.clear();
    std::size_t n = 0;
    for (const ScoredText& text : texts) {
        first_row_.push_back(n);
        n += count_scored(text);
    }
    if (wanted.probes.data != nullptr && wanted.probes.size != n * wanted.n_probes)
        throw OptionError("there are " + std::to_string(wanted.probes.size) + " probes for " +
                          std::to_string(n) + " scored tokens");
    next_row_ = first_row_;
    scores.logprob.resize(n);
    scores.top.resize(n);
    scores.top_logprob.resize(n);
    scores.log_odds.resize(n);
    scores.entropy.resize(n);
    scores.top_k_logprobs.resize(n * wanted.top_k);
    if (wanted.probes.data != nullptr) scores.probe_logprob.resize(wanted.probes.size);
    scores.likeliest.resize(n * wanted.n_likeliest, kNoToken);
    scores.likeliest_logprob.resize(n * wanted.n_likeliest, kNoProbability);
    if (wanted.head != nullptr) {
        scores.defer_logit.resize(n);
        scores.expert_logits.resize(n * wanted.head->n_scores());
    }
    if (wanted.hidden) scores.hidden.resize(n * model_->n_embd());

    model_->clear();
    std::vector<std::size_t> position(texts.size(), 0);
    // Alternately what leads up to scored tokens, of all texts, and the scored tokens. The token before a
    // scored one gives its distribution; the last token of a text gives nobody's and is not read.
    for (bool outputs = false;; outputs = !outputs) {
        std::vector<Run> runs;
        bool left = false;
        for (std::size_t i = 0; i < texts.size(); ++i) {
            const ScoredText& text = texts[i];
            const auto is_output = [&](std::size_t t) {
                return t + 1 < text.tokens.size() && text.scored[t + 1] != 0;
            };
            if (next_row_[i] == first_row_[i] + count_scored(text)) continue;  // nothing left to score
            const std::size_t begin = position[i];
            std::size_t end = begin;
            while (end < text.tokens.size() && is_output(end) == outputs) ++end;
            if (end > begin) runs.push_back({i, begin, end});
            position[i] = end;
            left = true;
        }
        if (!left) break;
        read(texts, runs, outputs, wanted, interrupt, scores);
    }
    model_->clear();
    return scores;
}

void Scorer::read(const std::vector<ScoredText>& texts, const std::vector<Run>& runs, bool outputs,
                  const Wanted& wanted, Interrupt& interrupt, Scores& scores) {
    const std::size_t limit = outputs ? std::min(model_->n_batch(), model_->n_outputs()) : model_->n_batch();
    std::vector<BatchToken> slots;
    const auto flush = [&] {
        if (slots.empty()) return;
        interrupt.check();
        const auto start = std::chrono::steady_clock::now();
        const bool hidden = wanted.hidden || (wanted.head != nullptr && wanted.head->needs_hidden());
        model_->eval_batch({slots.data(), slots.size()}, outputs && hidden, interrupt);
        scores.decode_s += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        ++scores.n_calls;
        if (outputs)
            for (std::size_t i = 0; i < slots.size(); ++i)
                keep(texts[slots[i].sequence], slots[i].position + 1, next_row_[slots[i].sequence]++,
                     model_->output(i), wanted, scores);
        slots.clear();
    };
    for (const Run& run : runs)
        for (std::size_t t = run.begin; t < run.end; ++t) {
            slots.push_back({texts[run.text].tokens[t], t, run.text, outputs});
            if (slots.size() == limit) flush();
        }
    flush();
}

void Scorer::keep(const ScoredText& text, std::size_t at, std::size_t row, const Output& output,
                  const Wanted& wanted, Scores& scores) {
    for (const Token token : blocked_) output.logits[static_cast<std::size_t>(token)] = kNoProbability;
    HeadInput input;
    if (wanted.head != nullptr && wanted.head->defer_token() != kNoToken)
        input.token_logit = output.logits[static_cast<std::size_t>(wanted.head->defer_token())];
    if (wanted.excluded != kNoToken)
        output.logits[static_cast<std::size_t>(wanted.excluded)] = kNoProbability;
    const View<const float> logits{output.logits.data, n_shared_};
    Distribution distribution;
    try {
        const std::size_t n_head = wanted.head == nullptr ? 0 : wanted.head->n_top_logits();
        distribution = summarize(logits, std::max(wanted.top_k, n_head));
    } catch (const GenerationError& error) {
        const auto which = std::upper_bound(first_row_.begin(), first_row_.end(), row) - first_row_.begin();
        throw GenerationError("text " + std::to_string(which - 1) + ", token " + std::to_string(at) + ": " +
                              error.what());
    }
    const auto logprob = [&](Token token) {
        return static_cast<float>(logits[static_cast<std::size_t>(token)] - distribution.log_normalizer);
    };
    scores.logprob[row] = logprob(text.tokens[at]);
    scores.top[row] = distribution.top;
    scores.top_logprob[row] = static_cast<float>(distribution.top_logprob());
    scores.log_odds[row] = static_cast<float>(distribution.log_odds());
    scores.entropy[row] = static_cast<float>(distribution.entropy);
    for (std::size_t k = 0; k < wanted.top_k; ++k) {
        // As in compute_features(): a vocabulary with fewer possible tokens repeats the last of them.
        const std::size_t rank = std::min(k, distribution.top_logits.size() - 1);
        scores.top_k_logprobs[row * wanted.top_k + k] =
            static_cast<float>(distribution.top_logits[rank] - distribution.log_normalizer);
    }
    if (wanted.probes.data != nullptr)
        for (std::size_t k = row * wanted.n_probes; k < (row + 1) * wanted.n_probes; ++k)
            scores.probe_logprob[k] =
                wanted.probes[k] == kNoToken ? kNoProbability : logprob(wanted.probes[k]);
    const auto likeliest = top_logprobs(logits, distribution, wanted.n_likeliest);
    for (std::size_t k = 0; k < likeliest.size(); ++k) {
        scores.likeliest[row * wanted.n_likeliest + k] = likeliest[k].token;
        scores.likeliest_logprob[row * wanted.n_likeliest + k] = static_cast<float>(likeliest[k].logprob);
    }
    if (wanted.head != nullptr) {
        input.hidden = output.hidden;
        input.distribution = &distribution;
        input.position = at;
        input.seed = wanted.seed;
        const std::size_t n_experts = wanted.head->n_scores();
        double* z = scores.expert_logits.data() + row * n_experts;
        wanted.head->score(input, z);
        scores.defer_logit[row] = any_of({z, n_experts});
    }
    if (wanted.hidden) {
        const std::size_t n_embd = model_->n_embd();
        std::copy(output.hidden, output.hidden + n_embd,
                  scores.hidden.begin() + static_cast<std::ptrdiff_t>(row * n_embd));
    }
}

}  // namespace colm
