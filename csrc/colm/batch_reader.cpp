#include "colm/batch_reader.h"

#include <algorithm>
#include <utility>

namespace colm {
namespace {

// A copy costs as much as reading a few tokens.
constexpr std::size_t kLeastShared = 16;

// How many tokens at the beginning are the same, less than all of `text`: its last token is always read,
// since its output is wanted.
std::size_t n_common(const std::vector<Token>& text, const std::vector<Token>& other, std::size_t n_other) {
    const auto limit = static_cast<std::ptrdiff_t>(std::min(text.size() - 1, n_other));
    return static_cast<std::size_t>(std::mismatch(text.begin(), text.begin() + limit, other.begin()).first -
                                    text.begin());
}

}  // namespace

BatchReader::BatchReader(std::shared_ptr<BatchModel> model, Source role)
    : model_(std::move(model)),
      role_(role),
      n_read_(model_->n_sequences(), 0),
      texts_(model_->n_sequences()) {}

void BatchReader::read(const std::vector<Request>& requests, bool hidden, Interrupt& interrupt,
                       const Use& use) {
    try {
        share_prefixes(requests, interrupt);
        std::size_t n_unread = 0;
        for (const Request& request : requests)
            n_unread += request.text->tokens.size() - n_read_[request.sequence];
        // With hidden states every token of a batch is an output, and pays for the vocabulary: prompts are
        // read without them, and the last tokens together. So is what does not fit one batch: outputs last
        // until the next decode, and callers need those of all texts at once.
        if ((hidden && n_unread > requests.size()) || n_unread > model_->n_batch())
            read_unread(requests, true, false, interrupt, use);
        read_unread(requests, false, hidden, interrupt, use);
    } catch (...) {
        clear();
        throw;
    }
}

// New texts get what they have in common with those held. Where only new texts share it, one of them is read
// first.
void BatchReader::share_prefixes(const std::vector<Request>& requests, Interrupt& interrupt) {
    for (std::size_t i = 0; i < requests.size(); ++i) {
        const std::size_t sequence = requests[i].sequence;
        if (n_read_[sequence] > 0) continue;
        texts_[sequence] = requests[i].text;
        const std::vector<Token>& tokens = requests[i].text->tokens;
        std::size_t most = 0;
        std::size_t from = 0;
        for (std::size_t other = 0; other < n_read_.size(); ++other) {
            if (n_read_[other] == 0) continue;
            const std::size_t n = n_common(tokens, texts_[other]->tokens, n_read_[other]);
            if (n > most) {
                most = n;
                from = other;
            }
        }
        std::size_t n_later = 0;
        for (std::size_t k = i + 1; k < requests.size(); ++k) {
            const std::vector<Token>& later = requests[k].text->tokens;
            if (n_read_[requests[k].sequence] == 0)
                n_later = std::max(n_later, n_common(later, tokens, tokens.size() - 1));
        }
        if (most >= kLeastShared) n_read_[sequence] = model_->copy(from, sequence, most);
        if (n_later >= std::max(kLeastShared, most + kLeastShared))
            read_unread({requests[i]}, true, false, interrupt, {});
    }
}

// What is unread of every text, without the last tokens where `up_to_last`.
void BatchReader::read_unread(const std::vector<Request>& requests, bool up_to_last, bool hidden,
                              Interrupt& interrupt, const Use& use) {
    std::vector<Slot> slots;
    std::vector<std::pair<std::size_t, std::size_t>> outputs;  // (request, place in the batch)
    std::vector<std::pair<Sequence*, DecodeCall>> calls;
    const auto flush = [&] {
        if (slots.empty()) return;
        interrupt.check();
        for (const auto& [text, call] : calls) text->calls.push_back(call);
        calls.clear();
        model_->eval_batch({slots.data(), slots.size()}, hidden, interrupt);
        ++n_decodes_;
        for (const auto& [request, place] : outputs) use(request, model_->output(place));
        slots.clear();
        outputs.clear();
    };
    for (std::size_t i = 0; i < requests.size(); ++i) {
        Sequence& text = *requests[i].text;
        std::size_t& n_read = n_read_[requests[i].sequence];
        const bool wanted = requests[i].output;
        const std::size_t end = text.tokens.size() - (up_to_last && wanted ? 1 : 0);
        while (n_read < end) {
            if (slots.size() == model_->n_batch()) flush();
            const std::size_t n = std::min(end - n_read, model_->n_batch() - slots.size());
            const bool output = wanted && !up_to_last && n_read + n == end;
            const DecodeCall call{role_, static_cast<std::int32_t>(n_read), static_cast<std::int32_t>(n),
                                  output, output && hidden};
            calls.emplace_back(&text, call);
            for (std::size_t k = 0; k < n; ++k, ++n_read)
                slots.push_back(
                    {text.tokens[n_read], n_read, requests[i].sequence, output && n_read + 1 == end});
            if (output) outputs.emplace_back(i, slots.size() - 1);
        }
    }
    flush();
}

void BatchReader::forget(std::size_t sequence) {
    model_->forget(sequence);
    n_read_[sequence] = 0;
    texts_[sequence] = nullptr;
}

void BatchReader::clear() {
    model_->clear();
    std::fill(n_read_.begin(), n_read_.end(), 0);
    std::fill(texts_.begin(), texts_.end(), nullptr);
}

}  // namespace colm
