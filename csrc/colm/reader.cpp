#include "colm/reader.h"

#include <algorithm>

namespace colm {

Output Reader::read(const std::vector<Token>& tokens, bool hidden, Interrupt& interrupt,
                    std::vector<DecodeCall>& calls) {
    const auto limit = std::min(held_.size(), tokens.size() - 1);
    const auto differs =
        std::mismatch(held_.begin(), held_.begin() + static_cast<std::ptrdiff_t>(limit), tokens.begin());
    const auto n_common = static_cast<std::size_t>(differs.first - held_.begin());
    if (n_common < held_.size() || uncertain_) {
        const std::size_t n_kept = model_->rewind(n_common);
        held_.resize(n_kept);
        uncertain_ = false;
    }

    // With embeddings on, llama.cpp computes the vocabulary product for every token of a batch, so a hidden
    // state is asked for with the last token alone and everything before it is read without outputs.
    const std::size_t n_last = hidden ? 1 : 0;
    Output output;
    while (held_.size() < tokens.size()) {
        interrupt.check();
        const std::size_t n_unread = tokens.size() - held_.size();
        const bool last = n_unread <= (hidden ? n_last : model_->n_batch());
        const std::size_t n = last ? n_unread : std::min(n_unread - n_last, model_->n_batch());
        const Want want = !last ? Want::nothing : hidden ? Want::logits_and_hidden : Want::logits;
        output = eval({tokens.data() + held_.size(), n}, want, interrupt, calls);
    }
    return output;
}

Output Reader::eval(View<const Token> tokens, Want want, Interrupt& interrupt,
                    std::vector<DecodeCall>& calls) {
    calls.push_back({role_, static_cast<std::int32_t>(held_.size()), static_cast<std::int32_t>(tokens.size),
                     want != Want::nothing, want == Want::logits_and_hidden});
    uncertain_ = true;
    const Output output = model_->eval(tokens, held_.size(), want, interrupt);
    uncertain_ = false;
    held_.insert(held_.end(), tokens.begin(), tokens.end());
    return output;
}

void Reader::reset() {
    held_.resize(model_->rewind(0));
    uncertain_ = false;
}

}  // namespace colm
