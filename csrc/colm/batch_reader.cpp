#include "colm/batch_reader.h"

#include <algorithm>
#include <numeric>
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
    : model_(std::move(model)), role_(role), held_(model_->n_sequences()) {}

void BatchReader::read(const std::vector<Request>& requests, bool hidden, Interrupt& interrupt,
                       const Use& use) {
    try {
        share_prefixes(requests, interrupt);
        std::size_t n_unread = 0;
        for (const Request& request : requests)
            n_unread += request.text->tokens.size() - held_[request.place].n_read;
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

// Finds a sequence for a text of which nothing is read: the lowest that is free. A text that one of the
// models is never asked about has none there, so those in use lie close together.
void BatchReader::begin(const Request& request) {
    std::size_t sequence = 0;
    const auto takes_it = [&](const Held& held) { return held.text != nullptr && held.sequence == sequence; };
    while (std::any_of(held_.begin(), held_.end(), takes_it)) ++sequence;
    held_[request.place] = {request.text, sequence, 0};
}

// New texts get what they have in common with those held. Where only new texts share it, one of them is read
// first.
void BatchReader::share_prefixes(const std::vector<Request>& requests, Interrupt& interrupt) {
    for (std::size_t i = 0; i < requests.size(); ++i) {
        Held& held = held_[requests[i].place];
        if (held.n_read > 0) continue;
        if (held.text == nullptr) begin(requests[i]);
        const std::vector<Token>& tokens = requests[i].text->tokens;
        std::size_t most = 0;
        std::size_t from = 0;
        for (const Held& other : held_) {
            if (other.n_read == 0) continue;
            const std::size_t n = n_common(tokens, other.text->tokens, other.n_read);
            if (n > most) {
                most = n;
                from = other.sequence;
            }
        }
        std::size_t n_later = 0;
        for (std::size_t k = i + 1; k < requests.size(); ++k) {
            const std::vector<Token>& later = requests[k].text->tokens;
            if (held_[requests[k].place].n_read == 0)
                n_later = std::max(n_later, n_common(later, tokens, tokens.size() - 1));
        }
        if (most >= kLeastShared) held.n_read = model_->copy(from, held.sequence, most);
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
    // llama.cpp computes in one pass only what stands in rising sequences without a gap.
    std::vector<std::size_t> order(requests.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        return held_[requests[a].place].sequence < held_[requests[b].place].sequence;
    });
    for (const std::size_t i : order) {
        Sequence& text = *requests[i].text;
        Held& held = held_[requests[i].place];
        const bool wanted = requests[i].output;
        const std::size_t end = text.tokens.size() - (up_to_last && wanted ? 1 : 0);
        while (held.n_read < end) {
            if (slots.size() == model_->n_batch()) flush();
            const std::size_t n = std::min(end - held.n_read, model_->n_batch() - slots.size());
            const bool output = wanted && !up_to_last && held.n_read + n == end;
            const DecodeCall call{role_, static_cast<std::int32_t>(held.n_read), static_cast<std::int32_t>(n),
                                  output, output && hidden};
            calls.emplace_back(&text, call);
            for (std::size_t k = 0; k < n; ++k, ++held.n_read)
                slots.push_back(
                    {text.tokens[held.n_read], held.n_read, held.sequence, output && held.n_read + 1 == end});
            if (output) outputs.emplace_back(i, slots.size() - 1);
        }
    }
    flush();
}

void BatchReader::forget(std::size_t place) {
    Held& held = held_[place];
    if (held.text == nullptr) return;
    model_->forget(held.sequence);
    held = {};
}

void BatchReader::clear() {
    model_->clear();
    std::fill(held_.begin(), held_.end(), Held{});
}

}  // namespace colm
