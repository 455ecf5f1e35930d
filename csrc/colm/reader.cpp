#include "colm/reader.h"

#include <algorithm>

namespace colm {

// To the beginning that both have in common, of `limit` tokens at most.
void Reader::go_back(const std::vector<Token>& tokens, std::size_t limit) {
    limit = std::min(held_.size(), limit);
    const auto differs =
        std::mismatch(held_.begin(), held_.begin() + static_cast<std::ptrdiff_t>(limit), tokens.begin());
    const auto n_common = static_cast<std::size_t>(differs.first - held_.begin());
    if (n_common == held_.size() && !uncertain_) return;
    const std::size_t n_kept = model_->rewind(n_common);
    if (n_kept < n_common) rewinds_ = false;
    held_.resize(n_kept);
    uncertain_ = false;
}

Output Reader::read(const std::vector<Token>& tokens, bool hidden, Interrupt& interrupt,
                    std::vector<DecodeCall>& calls) {
    go_back(tokens, tokens.size() - 1);
    // With embeddings on, llama.cpp computes the vocabulary product for every token of a batch, so a hidden
    // state is asked for with the last token alone and everything before it is read without outputs. A few
    // tokens behind a text, such as a run of the assistant's, cost less in one batch than in two.
    const std::size_t n_new = tokens.size() - held_.size();
    const bool few = !held_.empty() && n_new <= std::min(model_->n_outputs(), model_->n_batch());
    const std::size_t n_last = !hidden ? 0 : few ? n_new : 1;
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

void Reader::read_at(const std::vector<Token>& tokens, const std::vector<std::size_t>& counts,
                     Interrupt& interrupt, std::vector<DecodeCall>& calls, const Use& use) {
    const std::size_t first = counts.front() - 1;
    go_back(tokens, first);
    while (counts.back() - held_.size() > model_->n_batch()) {
        interrupt.check();
        const std::size_t n = std::min(first - held_.size(), model_->n_batch());
        eval({tokens.data() + held_.size(), n}, Want::nothing, interrupt, calls);
    }
    interrupt.check();
    const std::size_t begin = held_.size();
    wanted_.clear();
    for (const std::size_t count : counts) wanted_.push_back(count - 1 - begin);
    const View<const Token> batch{tokens.data() + begin, counts.back() - begin};
    calls.push_back({role_, static_cast<std::int32_t>(begin), static_cast<std::int32_t>(batch.size), true});
    uncertain_ = true;
    model_->eval_at(batch, begin, {wanted_.data(), wanted_.size()}, false, interrupt);
    uncertain_ = false;
    held_.insert(held_.end(), batch.begin(), batch.end());
    for (std::size_t i = 0; i < wanted_.size(); ++i) use(i, model_->output(wanted_[i]));
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
