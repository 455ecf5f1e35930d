// A model together with the tokens that it has read.
#pragma once

#include <memory>
#include <vector>

#include "colm/language_model.h"

namespace colm {

class Reader {
  public:
    Reader(std::unique_ptr<LanguageModel> model, Source role) : model_(std::move(model)), role_(role) {}

    // Brings the model to have read exactly `tokens` and returns its output after the last one. Only what
    // differs from the tokens already read is evaluated, in batches of at most n_batch, and the last token
    // always is: its output is what the caller wants. Every decode is appended to `calls`. Requires 1 <=
    // tokens.size() <= n_ctx. Throws Cancelled between batches; the reader stays usable.
    Output read(const std::vector<Token>& tokens, bool hidden, Interrupt& interrupt,
                std::vector<DecodeCall>& calls);

    // Forgets everything read.
    void reset();

    LanguageModel& model() { return *model_; }
    const LanguageModel& model() const { return *model_; }
    const std::vector<Token>& held() const { return held_; }

  private:
    Output eval(View<const Token> tokens, Want want, Interrupt& interrupt, std::vector<DecodeCall>& calls);

    std::unique_ptr<LanguageModel> model_;
    Source role_;
    std::vector<Token> held_;
    // An eval() failed half-way, so the model may hold more than held_ says.
    bool uncertain_ = false;
};

}  // namespace colm
