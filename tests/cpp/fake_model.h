// A model that reads many texts at once, whose logits are functions of each text's tokens so far: a token in
// the wrong text or place shows. It remembers what it was asked, and fails the test that asks it something
// that colm::LanguageModel does not allow.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "colm/language_model.h"
#include "reference.h"

struct FakeModelOptions {
    std::size_t n_vocab = 9;
    std::size_t n_embd = 3;
    std::size_t n_ctx = 64;  // of all texts together
    std::size_t n_batch = 8;
    std::size_t n_outputs = 4;
    std::size_t n_sequences = 4;
    bool can_rewind = true;  // false: recurrent
    bool admits_it = true;   // false: can_rewind() says it can, whatever it does
};

class FakeModel final : public colm::LanguageModel {
  public:
    using Text = std::vector<colm::Token>;
    using Function = std::function<std::vector<float>(const Text&)>;

    FakeModel(FakeModelOptions options, Function logits, Function hidden = {})
        : options_(options),
          logits_(std::move(logits)),
          hidden_(std::move(hidden)),
          texts_(options.n_sequences),
          unknown_(options.n_sequences, false) {}

    std::size_t n_vocab() const override { return options_.n_vocab; }
    std::size_t n_embd() const override { return options_.n_embd; }
    std::size_t n_ctx() const override { return options_.n_ctx; }
    std::size_t n_batch() const override { return options_.n_batch; }
    std::size_t n_outputs() const override { return options_.n_outputs; }
    std::size_t n_sequences() const override { return options_.n_sequences; }
    bool can_rewind() const override { return options_.can_rewind || !options_.admits_it; }

    void eval_batch(colm::View<const colm::BatchToken> tokens, bool hidden,
                    colm::Interrupt& interrupt) override {
        const std::size_t index = batches.size();
        batches.emplace_back(tokens.begin(), tokens.end());
        log.push_back(shown(batches.back(), hidden));
        sizes.push_back(tokens.size);
        REQUIRE(tokens.size >= 1);
        REQUIRE(tokens.size <= options_.n_batch);
        outputs_.clear();
        std::vector<Text> texts = texts_;
        std::size_t n_outputs = 0;
        for (const colm::BatchToken& token : batches.back()) {
            REQUIRE(token.sequence < options_.n_sequences);
            REQUIRE(!unknown_[token.sequence]);
            REQUIRE_EQ(token.position, texts[token.sequence].size());
            texts[token.sequence].push_back(token.token);
            REQUIRE((token.output || !hidden));
            n_outputs += token.output ? 1 : 0;
        }
        REQUIRE(n_outputs <= options_.n_outputs);
        std::size_t n_held = 0;
        for (const Text& text : texts) n_held += text.size();
        REQUIRE(n_held <= options_.n_ctx);
        if (on_eval) {
            try {
                on_eval(index, interrupt);
            } catch (...) {
                // As with llama.cpp, part of the batch may have been read by then.
                for (const colm::BatchToken& token : batches.back()) unknown_[token.sequence] = true;
                throw;
            }
        }
        n_outputs_made += n_outputs;
        n_read += tokens.size;

        // On the heap and anew each time: the address sanitizer sees who reads it for too long, or too far.
        bool damaged = false;
        for (const colm::BatchToken& token : batches.back()) {
            Text& text = texts_[token.sequence];
            text.push_back(token.token);
            Kept kept{token.output, logits_(text), hidden ? hidden_(text) : std::vector<float>()};
            REQUIRE_EQ(kept.logits.size(), options_.n_vocab);
            REQUIRE((!hidden || kept.hidden.size() == options_.n_embd));
            for (float& logit : kept.logits) {
                damaged = damaged || std::isnan(logit);
                if (poisoned_) logit = reference::kNan;
            }
            outputs_.push_back(std::move(kept));
        }
        poisoned_ = poisoned_ || damaged;
    }

    colm::Output output(std::size_t i) override {
        REQUIRE(i < outputs_.size());
        REQUIRE(outputs_[i].wanted);
        colm::Output output;
        output.logits = {outputs_[i].logits.data(), outputs_[i].logits.size()};
        if (!outputs_[i].hidden.empty()) output.hidden = outputs_[i].hidden.data();
        return output;
    }

    std::size_t rewind(std::size_t sequence, std::size_t n_tokens) override {
        REQUIRE(sequence < options_.n_sequences);
        Text& text = texts_[sequence];
        REQUIRE(n_tokens <= text.size());
        const bool back = n_tokens < text.size() || unknown_[sequence];
        const std::size_t n = back && !options_.can_rewind ? 0 : n_tokens;
        // What is held after a refusal is not known, but go_back() may find its beginning there.
        unknown_[sequence] = n < n_tokens;
        if (n == n_tokens) text.resize(n);
        log.push_back("rewind " + std::to_string(sequence) + ": " + std::to_string(n_tokens) + " -> " +
                      std::to_string(n));
        return n;
    }

    // The last token and how many there are: the rest has to be held.
    std::vector<std::uint8_t> checkpoint(std::size_t sequence) override {
        REQUIRE(!unknown_[sequence]);
        REQUIRE(!options_.can_rewind);
        const Text& text = texts_[sequence];
        ++n_checkpoints;
        const colm::Token state[2] = {static_cast<colm::Token>(text.size()), text.back()};
        std::vector<std::uint8_t> bytes(sizeof state);
        std::memcpy(bytes.data(), state, sizeof state);
        return bytes;
    }

    bool go_back(std::size_t sequence, std::size_t n_tokens,
                 const std::vector<std::uint8_t>& bytes) override {
        log.push_back("back " + std::to_string(sequence) + " to " + std::to_string(n_tokens));
        if (!can_restore) return false;
        colm::Token state[2];
        REQUIRE_EQ(bytes.size(), sizeof state);
        std::memcpy(state, bytes.data(), sizeof state);
        Text& text = texts_[sequence];
        REQUIRE_EQ(static_cast<std::size_t>(state[0]), n_tokens);
        REQUIRE(n_tokens >= 1);
        REQUIRE(n_tokens <= text.size());
        REQUIRE_EQ(text[n_tokens - 1], state[1]);
        text.resize(n_tokens);
        unknown_[sequence] = false;
        return true;
    }

    std::vector<std::uint8_t> save(std::size_t sequence) override {
        REQUIRE(!unknown_[sequence]);
        if (on_save) on_save();
        const Text& text = texts_[sequence];
        log.push_back("save " + std::to_string(sequence));
        std::vector<std::uint8_t> bytes(text.size() * sizeof(colm::Token));
        std::memcpy(bytes.data(), text.data(), bytes.size());
        return bytes;
    }

    bool restore(std::size_t sequence, std::size_t n_tokens,
                 const std::vector<std::uint8_t>& bytes) override {
        log.push_back("restore " + std::to_string(sequence));
        REQUIRE(texts_[sequence].empty());
        if (!can_restore) return false;
        REQUIRE_EQ(bytes.size(), n_tokens * sizeof(colm::Token));
        texts_[sequence].resize(bytes.size() / sizeof(colm::Token));
        std::memcpy(texts_[sequence].data(), bytes.data(), bytes.size());
        return true;
    }

    std::size_t copy(std::size_t from, std::size_t to, std::size_t n_tokens) override {
        log.push_back("copy " + std::to_string(n_tokens) + " from " + std::to_string(from) + " to " +
                      std::to_string(to));
        REQUIRE(from < options_.n_sequences);
        REQUIRE(to < options_.n_sequences);
        REQUIRE(from != to);
        REQUIRE(!unknown_[from]);
        REQUIRE(texts_[to].empty());
        REQUIRE(n_tokens >= 1);
        REQUIRE(n_tokens <= texts_[from].size());
        if (!options_.can_rewind) return 0;
        const auto begin = texts_[from].begin();
        texts_[to].assign(begin, begin + static_cast<std::ptrdiff_t>(n_tokens));
        return n_tokens;
    }

    void forget(std::size_t sequence) override {
        REQUIRE(sequence < options_.n_sequences);
        log.push_back("forget " + std::to_string(sequence));
        texts_[sequence].clear();
        unknown_[sequence] = false;
    }

    void clear() override {
        log.push_back("clear");
        for (Text& text : texts_) text.clear();
        outputs_.clear();
        unknown_.assign(unknown_.size(), false);
        poisoned_ = false;
        ++n_clears;
    }

    std::vector<float> logits(const Text& text) const { return logits_(text); }
    std::vector<float> hidden(const Text& text) const { return hidden_(text); }
    const Text& text(std::size_t sequence) const { return texts_[sequence]; }

    std::vector<std::string> take_log() { return std::exchange(log, {}); }

    // Called within the n-th eval_batch; may throw, and may ask for an interrupt.
    std::function<void(std::size_t, colm::Interrupt&)> on_eval;
    std::function<void()> on_save;
    // A batch is "0@3: 5 6* | 1@0: 2*": sequence, position of its first token, tokens, those with an output
    // starred; with " hidden" behind it where that was asked for.
    std::vector<std::string> log;
    std::vector<std::vector<colm::BatchToken>> batches;
    std::vector<std::size_t> sizes;
    std::size_t n_outputs_made = 0;
    std::size_t n_read = 0;  // tokens
    int n_clears = 0;
    int n_checkpoints = 0;
    bool can_restore = true;

  private:
    struct Kept {
        bool wanted;
        std::vector<float> logits;
        std::vector<float> hidden;
    };

    static std::string shown(const std::vector<colm::BatchToken>& tokens, bool hidden) {
        std::string all;
        for (std::size_t i = 0; i < tokens.size(); ++i) {
            const colm::BatchToken& token = tokens[i];
            if (i == 0 || tokens[i - 1].sequence != token.sequence)
                all += (i > 0 ? " | " : "") + std::to_string(token.sequence) + "@" +
                       std::to_string(token.position) + ":";
            all += " " + std::to_string(token.token) + (token.output ? "*" : "");
        }
        return all + (hidden ? " hidden" : "");
    }

    FakeModelOptions options_;
    Function logits_;
    Function hidden_;
    std::vector<Text> texts_;
    std::vector<bool> unknown_;  // what is held, after a failed eval
    std::vector<Kept> outputs_;
    bool poisoned_ = false;  // values that are not finite are held: they reach every text, until clear()
};

// Values in [-scale, scale) that differ with every text: a wrong token anywhere shows.
inline FakeModel::Function random_function(std::uint32_t seed, std::size_t n, double scale = 3.0) {
    return [seed, n, scale](const FakeModel::Text& text) {
        std::uint32_t hash = seed * 2654435761U + 17U;
        for (const colm::Token token : text)
            hash = (hash ^ static_cast<std::uint32_t>(token + 1)) * 16777619U;
        return reference::Random(hash).values(n, -scale, scale);
    };
}

// `function` and, as far as `share` goes, another one: the two agree on most texts where it is small.
inline FakeModel::Function nearly(FakeModel::Function function, std::uint32_t seed, std::size_t n,
                                  double share) {
    const FakeModel::Function other = random_function(seed, n);
    return [=](const FakeModel::Text& text) {
        std::vector<float> values = function(text);
        const std::vector<float> others = other(text);
        for (std::size_t i = 0; i < values.size(); ++i) values[i] += static_cast<float>(share) * others[i];
        return values;
    };
}

inline std::shared_ptr<FakeModel> random_model(std::uint32_t seed, FakeModelOptions options = {}) {
    return std::make_shared<FakeModel>(options, random_function(seed, options.n_vocab),
                                       random_function(seed + 1000, options.n_embd));
}

// `function`, but for one logit that is NaN after `text`.
inline FakeModel::Function damaged_at(FakeModel::Function function, FakeModel::Text text) {
    return [function = std::move(function), text = std::move(text)](const FakeModel::Text& read) {
        std::vector<float> values = function(read);
        if (read == text) values[2] = reference::kNan;
        return values;
    };
}
