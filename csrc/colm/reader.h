// A model together with the tokens that it has read.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "colm/language_model.h"

namespace colm {

class Reader {
  public:
    // Takes the output after the first `counts[i]` tokens. It is borrowed for the call.
    using Use = std::function<void(std::size_t i, const Output& output)>;

    Reader(std::unique_ptr<LanguageModel> model, Source role) : model_(std::move(model)), role_(role) {}

    // Brings the model to have read exactly `tokens` and returns its output after the last one. Only what
    // differs from the tokens already read is evaluated, in batches of at most n_batch, and the last token
    // always is: its output is what the caller wants. Every decode is appended to `calls`. Requires 1 <=
    // tokens.size() <= n_ctx. Throws Cancelled between batches; the reader stays usable.
    Output read(const std::vector<Token>& tokens, bool hidden, Interrupt& interrupt,
                std::vector<DecodeCall>& calls);

    // Brings the model to have read the first counts.back() of `tokens` and hands out its outputs after the
    // first counts[i] of them. Requires ascending counts from 1 to tokens.size(), no more than n_outputs and
    // within n_batch tokens of each other.
    void read_at(const std::vector<Token>& tokens, const std::vector<std::size_t>& counts,
                 Interrupt& interrupt, std::vector<DecodeCall>& calls, const Use& use);

    // Forgets everything read.
    void reset();

    LanguageModel& model() { return *model_; }
    const LanguageModel& model() const { return *model_; }
    const std::vector<Token>& held() const { return held_; }
    // Whether the model has gone back whenever it was asked to.
    bool rewinds() const { return rewinds_ && model_->can_rewind(); }

  private:
    void go_back(const std::vector<Token>& tokens, std::size_t limit);
    Output eval(View<const Token> tokens, Want want, Interrupt& interrupt, std::vector<DecodeCall>& calls);

    std::unique_ptr<LanguageModel> model_;
    Source role_;
    std::vector<Token> held_;
    std::vector<std::size_t> wanted_;
    // An eval() failed half-way, so the model may hold more than held_ says.
    bool uncertain_ = false;
    bool rewinds_ = true;
};

}  // namespace colm
