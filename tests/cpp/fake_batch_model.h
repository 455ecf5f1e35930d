// A model that reads many texts at once, whose logits are functions of each text's tokens so far: a token in
// the wrong text or place shows. It remembers what it was asked, and fails the test that asks it something
// that colm::BatchModel does not allow.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "colm/batch_model.h"
#include "fake_model.h"
#include "reference.h"

struct FakeBatchOptions {
    std::size_t n_vocab = 9;
    std::size_t n_embd = 3;
    std::size_t n_ctx = 64;  // of all texts together
    std::size_t n_batch = 8;
    std::size_t n_outputs = 4;
    std::size_t n_sequences = 4;
    bool can_copy = true;  // false: recurrent
};

class FakeBatchModel final : public colm::BatchModel {
  public:
    using Text = FakeModel::Text;
    using Function = FakeModel::Function;

    FakeBatchModel(FakeBatchOptions options, Function logits, Function hidden = {})
        : options_(options),
          logits_(std::move(logits)),
          hidden_(std::move(hidden)),
          texts_(options.n_sequences) {}

    std::size_t n_vocab() const override { return options_.n_vocab; }
    std::size_t n_embd() const override { return options_.n_embd; }
    std::size_t n_ctx() const override { return options_.n_ctx; }
    std::size_t n_batch() const override { return options_.n_batch; }
    std::size_t n_outputs() const override { return options_.n_outputs; }
    std::size_t n_sequences() const override { return options_.n_sequences; }

    void eval_batch(colm::View<const colm::Slot> slots, bool hidden, colm::Interrupt& interrupt) override {
        const std::size_t index = batches.size();
        batches.emplace_back(slots.begin(), slots.end());
        log.push_back(shown(batches.back(), hidden));
        sizes.push_back(slots.size);
        CHECK(!unknown_);
        CHECK(slots.size >= 1);
        CHECK(slots.size <= options_.n_batch);
        outputs_.clear();
        std::vector<Text> texts = texts_;
        std::size_t n_outputs = 0;
        for (const colm::Slot& slot : batches.back()) {
            CHECK(slot.sequence < options_.n_sequences);
            CHECK_EQ(slot.position, texts[slot.sequence].size());
            texts[slot.sequence].push_back(slot.token);
            CHECK(slot.output || !hidden);
            n_outputs += slot.output ? 1 : 0;
        }
        CHECK(n_outputs <= options_.n_outputs);
        std::size_t n_held = 0;
        for (const Text& text : texts) n_held += text.size();
        CHECK(n_held <= options_.n_ctx);
        if (on_eval) {
            // As with llama.cpp, part of the batch may have been read by then.
            unknown_ = true;
            on_eval(index, interrupt);
            unknown_ = false;
        }
        n_outputs_made += n_outputs;

        // On the heap and anew each time: the address sanitizer sees who reads it for too long, or too far.
        bool damaged = false;
        for (const colm::Slot& slot : batches.back()) {
            Text& text = texts_[slot.sequence];
            text.push_back(slot.token);
            Kept kept{slot.output, logits_(text), hidden ? hidden_(text) : std::vector<float>()};
            CHECK_EQ(kept.logits.size(), options_.n_vocab);
            CHECK(!hidden || kept.hidden.size() == options_.n_embd);
            for (float& logit : kept.logits) {
                damaged = damaged || std::isnan(logit);
                if (poisoned_) logit = reference::kNan;
            }
            outputs_.push_back(std::move(kept));
        }
        poisoned_ = poisoned_ || damaged;
    }

    colm::Output output(std::size_t i) override {
        CHECK(!unknown_);
        CHECK(i < outputs_.size());
        CHECK(outputs_[i].wanted);
        colm::Output output;
        output.logits = {outputs_[i].logits.data(), outputs_[i].logits.size()};
        if (!outputs_[i].hidden.empty()) output.hidden = outputs_[i].hidden.data();
        return output;
    }

    std::size_t copy(std::size_t from, std::size_t to, std::size_t n_tokens) override {
        log.push_back("copy " + std::to_string(n_tokens) + " from " + std::to_string(from) + " to " +
                      std::to_string(to));
        CHECK(!unknown_);
        CHECK(from < options_.n_sequences && to < options_.n_sequences && from != to);
        CHECK(texts_[to].empty());
        CHECK(n_tokens >= 1 && n_tokens <= texts_[from].size());
        if (!options_.can_copy) return 0;
        const auto begin = texts_[from].begin();
        texts_[to].assign(begin, begin + static_cast<std::ptrdiff_t>(n_tokens));
        return n_tokens;
    }

    void forget(std::size_t sequence) override {
        CHECK(sequence < options_.n_sequences);
        log.push_back("forget " + std::to_string(sequence));
        texts_[sequence].clear();
    }

    void clear() override {
        log.push_back("clear");
        for (Text& text : texts_) text.clear();
        outputs_.clear();
        unknown_ = false;
        poisoned_ = false;
        ++n_clears;
    }

    std::vector<float> logits(const Text& text) const { return logits_(text); }
    std::vector<float> hidden(const Text& text) const { return hidden_(text); }
    const Text& text(std::size_t sequence) const { return texts_[sequence]; }

    std::vector<std::string> take_log() { return std::exchange(log, {}); }

    // Called within the n-th eval_batch; may throw, and may ask for an interrupt.
    std::function<void(std::size_t, colm::Interrupt&)> on_eval;
    // A batch is "0@3: 5 6* | 1@0: 2*": sequence, position of its first token, tokens, those with an output
    // starred; with " hidden" behind it where that was asked for.
    std::vector<std::string> log;
    std::vector<std::vector<colm::Slot>> batches;
    std::vector<std::size_t> sizes;
    std::size_t n_outputs_made = 0;
    int n_clears = 0;

  private:
    struct Kept {
        bool wanted;
        std::vector<float> logits;
        std::vector<float> hidden;
    };

    static std::string shown(const std::vector<colm::Slot>& slots, bool hidden) {
        std::string all;
        for (std::size_t i = 0; i < slots.size(); ++i) {
            const colm::Slot& slot = slots[i];
            if (i == 0 || slots[i - 1].sequence != slot.sequence)
                all += (i > 0 ? " | " : "") + std::to_string(slot.sequence) + "@" +
                       std::to_string(slot.position) + ":";
            all += " " + std::to_string(slot.token) + (slot.output ? "*" : "");
        }
        return all + (hidden ? " hidden" : "");
    }

    FakeBatchOptions options_;
    Function logits_;
    Function hidden_;
    std::vector<Text> texts_;
    std::vector<Kept> outputs_;
    bool unknown_ = false;   // what is held, after a failed eval
    bool poisoned_ = false;  // values that are not finite are held: they reach every text, until clear()
};

// The same functions as random_model() of the same seed.
inline std::shared_ptr<FakeBatchModel> random_batch_model(std::uint32_t seed, FakeBatchOptions options = {}) {
    return std::make_shared<FakeBatchModel>(options, random_function(seed, options.n_vocab),
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
