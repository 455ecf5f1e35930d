// A language model whose logits are a function of its text. It remembers what it was asked, and fails the
// test that asks it something that colm::LanguageModel does not allow.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "colm/error.h"
#include "colm/language_model.h"
#include "colm/sampler.h"
#include "reference.h"

struct FakeModelOptions {
    std::size_t n_vocab = 8;
    std::size_t n_embd = 3;
    std::size_t n_ctx = 64;
    std::size_t n_batch = 16;
    std::size_t n_outputs = 16;
    bool can_rewind = true;  // false: recurrent
    bool admits_it = true;   // false: can_rewind() says it can, whatever it does
};

class FakeModel final : public colm::LanguageModel {
  public:
    using Text = std::vector<colm::Token>;
    using Function = std::function<std::vector<float>(const Text&)>;

    FakeModel(FakeModelOptions options, Function logits, Function hidden = {})
        : options_(options), logits_(std::move(logits)), hidden_(std::move(hidden)) {}

    std::size_t n_vocab() const override { return options_.n_vocab; }
    std::size_t n_embd() const override { return options_.n_embd; }
    std::size_t n_ctx() const override { return options_.n_ctx; }
    std::size_t n_batch() const override { return options_.n_batch; }
    std::size_t n_outputs() const override { return options_.n_outputs; }
    bool can_rewind() const override { return options_.can_rewind || !options_.admits_it; }

    colm::Output eval(colm::View<const colm::Token> tokens, std::size_t position, colm::Want want,
                      colm::Interrupt& interrupt) override {
        static const char* const kWants[] = {"nothing", "logits", "logits and hidden"};
        read(tokens, position, kWants[static_cast<int>(want)], interrupt);
        colm::Output output;
        if (want == colm::Want::nothing) return output;
        // On the heap and anew each time: the address sanitizer sees who reads it for too long, or too far.
        output_ = std::make_unique<std::vector<float>>(logits_(text_));
        CHECK_EQ(output_->size(), options_.n_vocab);
        output.logits = {output_->data(), output_->size()};
        if (want == colm::Want::logits_and_hidden) {
            output_hidden_ = std::make_unique<std::vector<float>>(hidden_(text_));
            CHECK_EQ(output_hidden_->size(), options_.n_embd);
            output.hidden = output_hidden_->data();
        }
        return output;
    }

    void eval_at(colm::View<const colm::Token> tokens, std::size_t position,
                 colm::View<const std::size_t> wanted, bool hidden, colm::Interrupt& interrupt) override {
        const Text places(wanted.begin(), wanted.end());
        read(tokens, position, "logits at " + check::show(places), interrupt);
        CHECK(wanted.size >= 1);
        CHECK(wanted.size <= options_.n_outputs);
        CHECK(!hidden || wanted.size == tokens.size);
        for (std::size_t i = 0; i < wanted.size; ++i) {
            CHECK(wanted[i] < tokens.size);
            CHECK(i == 0 || wanted[i] > wanted[i - 1]);
            const Text text(text_.begin(),
                            text_.begin() + static_cast<std::ptrdiff_t>(position + wanted[i] + 1));
            outputs_[wanted[i]] = std::make_unique<std::vector<float>>(logits_(text));
            if (hidden) hiddens_[wanted[i]] = std::make_unique<std::vector<float>>(hidden_(text));
        }
    }

    colm::Output output(std::size_t i) override {
        CHECK(outputs_.count(i) == 1);
        std::vector<float>& logits = *outputs_.at(i);
        const auto hidden = hiddens_.find(i);
        return {{logits.data(), logits.size()}, hidden == hiddens_.end() ? nullptr : hidden->second->data()};
    }

    std::size_t rewind(std::size_t n_tokens) override {
        forget_output();
        CHECK(n_tokens <= text_.size());
        const bool back = n_tokens < text_.size() || unknown_;
        text_.resize(back && !options_.can_rewind ? 0 : n_tokens);
        unknown_ = false;
        log.push_back("rewind " + std::to_string(n_tokens) + " -> " + std::to_string(text_.size()));
        return text_.size();
    }

    std::vector<std::string> take_log() { return std::exchange(log, {}); }

    // Called within the n-th eval; may throw, and may ask for an interrupt.
    std::function<void(std::size_t, colm::Interrupt&)> on_eval;
    std::vector<std::string> log;
    std::size_t n_read = 0;  // tokens

  private:
    void read(colm::View<const colm::Token> tokens, std::size_t position, const std::string& want,
              colm::Interrupt& interrupt) {
        const std::size_t index = n_evals_++;
        const Text batch(tokens.begin(), tokens.end());
        log.push_back("eval " + std::to_string(position) + " " + check::show(batch) + " " + want);
        n_read += batch.size();
        CHECK(!unknown_);
        CHECK(tokens.size >= 1);
        CHECK(tokens.size <= options_.n_batch);
        CHECK_EQ(position, text_.size());
        CHECK(position + tokens.size <= options_.n_ctx);
        forget_output();
        if (on_eval) {
            try {
                on_eval(index, interrupt);
            } catch (...) {
                // As with llama.cpp, part of the batch may have been read.
                text_.insert(text_.end(), batch.begin(),
                             batch.begin() + static_cast<std::ptrdiff_t>(batch.size() / 2));
                unknown_ = true;
                throw;
            }
        }
        text_.insert(text_.end(), batch.begin(), batch.end());
    }

    void forget_output() {
        output_.reset();
        output_hidden_.reset();
        outputs_.clear();
        hiddens_.clear();
    }

    FakeModelOptions options_;
    Function logits_;
    Function hidden_;
    Text text_;
    std::size_t n_evals_ = 0;
    bool unknown_ = false;  // what is held, after a failed eval
    std::unique_ptr<std::vector<float>> output_;
    std::unique_ptr<std::vector<float>> output_hidden_;
    std::map<std::size_t, std::unique_ptr<std::vector<float>>> outputs_;
    std::map<std::size_t, std::unique_ptr<std::vector<float>>> hiddens_;
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

inline std::unique_ptr<FakeModel> random_model(std::uint32_t seed, FakeModelOptions options = {}) {
    return std::make_unique<FakeModel>(options, random_function(seed, options.n_vocab),
                                       random_function(seed + 1000, options.n_embd));
}

// The likeliest token that is not banned, the first of equals.
struct GreedySampler final : colm::Sampler {
    colm::Token choose(colm::View<const float> logits, const colm::Distribution& distribution,
                       std::size_t) override {
        seen.assign(logits.begin(), logits.end());
        if (on_choose) on_choose();
        if (banned.empty()) return distribution.top;
        std::vector<float> allowed = seen;
        for (const colm::Token token : banned) allowed[static_cast<std::size_t>(token)] = -reference::kInf;
        const std::size_t best = reference::argmax(allowed);
        return allowed[best] > -reference::kInf ? static_cast<colm::Token>(best) : colm::kNoToken;
    }
    std::string why_none() const override { return "every token is banned"; }
    void accept(colm::Token token) override { accepted.push_back(token); }
    std::unique_ptr<colm::Sampler> snapshot() const override {
        return std::make_unique<GreedySampler>(*this);
    }

    std::function<void()> on_choose;
    std::vector<colm::Token> banned;
    std::vector<float> seen;  // the logits that the last token was chosen from
    std::vector<colm::Token> accepted;
};
