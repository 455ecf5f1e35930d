// One text in progress: its tokens, the options that decide them, and why it ended. It reads no model.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "colm/decision.h"
#include "colm/sequence.h"
#include "colm/shared_text.h"
#include "colm/text_stream.h"

namespace colm {

class Writing {
  public:
    struct Limits {
        int max_tokens = 128;  // -1: until the context is full
        std::vector<std::string> stop;
        // Control tokens, which have no text that a stop string could match: by expert, or the first for all.
        std::vector<std::vector<Token>> stop_tokens = {};
    };
    // What a step's token stands for in the text, as bytes ("" for control tokens).
    using Piece = std::function<std::string(const Step&)>;
    // Whether it ends the text: end-of-generation for any model with its vocabulary.
    using EndsText = std::function<bool(const Step&)>;

    using OwnPrompts = std::map<ExpertId, std::vector<Token>>;

    // Requires prompts of 1 to `n_ctx` tokens; `n_ctx` is how many tokens the text may have in all, with
    // whatever prompt. `own_prompts`: of experts that read another prompt than the base. `shared`: of models
    // with unlike vocabularies, with the same prompts.
    Writing(std::vector<Token> prompt, std::size_t n_ctx, Deciders deciders, Limits limits, Piece piece,
            EndsText ends_text, OwnPrompts own_prompts = {}, std::unique_ptr<SharedText> shared = nullptr);

    Sequence& sequence() { return sequence_; }
    const Sequence& sequence() const { return sequence_; }
    Deciders& deciders() { return deciders_; }

    // Ends the text as `length` where no token may follow. Call before each step.
    void end_if_full();
    // Takes a step whose token is the last of sequence(): its text, and whether it ends the text.
    void take(Step step);
    void finish(FinishReason reason);
    // Tokens that the text may have in all.
    std::size_t limit() const;
    const EndsText& ends_text() const { return ends_text_; }
    // What an expert reads in place of the prompt; null: the prompt.
    const std::vector<Token>* own_prompt(ExpertId expert) const {
        const auto found = own_prompts_.find(expert);
        return found == own_prompts_.end() ? nullptr : &found->second;
    }

    // The most tokens that each model may have of it.
    std::size_t n_ctx() const { return n_ctx_; }

    // Null where all models have one vocabulary.
    SharedText* shared() const { return shared_.get(); }

    bool finished() const { return finish_reason_ != FinishReason::none; }
    FinishReason finish_reason() const { return finish_reason_; }
    // The end-of-generation token that ended the text (finish reason `eos`), with who chose it.
    const std::optional<Step>& end_step() const { return end_step_; }

    // Steps whose text is certain.
    bool empty() const { return text_.empty(); }
    // Requires !empty().
    StreamedStep pop() { return text_.pop(); }

  private:
    Sequence sequence_;
    std::size_t n_ctx_;
    Deciders deciders_;
    Limits limits_;
    Piece piece_;
    EndsText ends_text_;
    OwnPrompts own_prompts_;
    std::unique_ptr<SharedText> shared_;
    TextStream text_;
    FinishReason finish_reason_ = FinishReason::none;
    std::optional<Step> end_step_;
};

}  // namespace colm
