// A model that reads many texts at a time, and the tokens that it has read of each.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "colm/batch_model.h"
#include "colm/sequence.h"

namespace colm {

class BatchReader {
  public:
    BatchReader(std::shared_ptr<BatchModel> model, Source role);

    // A text to read to its end. It keeps its place until forget(). The output after its last token may be
    // wanted.
    struct Request {
        std::size_t place = 0;  // less than n_sequences()
        Sequence* text = nullptr;
        bool output = true;
    };
    // Called with the index of a request and the output after its last token, borrowed until the next read().
    using Use = std::function<void(std::size_t, const Output&)>;

    // Reads the unread tokens of every request and hands out the outputs. Each text must extend the text at
    // its place by at least one token. All unread tokens share batches, and a beginning that a new text
    // shares with another is read once. Every decode is recorded in the `calls` of its texts. Requires at
    // most n_outputs() requests, each with its own place; with `hidden`, all must want their output. Throws
    // Cancelled or GenerationError; every text is then forgotten.
    void read(const std::vector<Request>& requests, bool hidden, Interrupt& interrupt, const Use& use);

    // Forgets the text at one place, or every text. A forgotten text is read again at its next request.
    void forget(std::size_t place);
    void clear();

    // How many tokens of the text at a place are read.
    std::size_t n_read(std::size_t place) const { return held_[place].n_read; }
    // The model's sequence that has them. Requires n_read(place) > 0.
    std::size_t sequence(std::size_t place) const { return held_[place].sequence; }
    const BatchModel& model() const { return *model_; }
    // How many tokens each text may have.
    std::size_t n_ctx() const { return model_->n_ctx() / model_->n_sequences(); }
    // Calls of llama_decode so far.
    std::size_t n_decodes() const { return n_decodes_; }

  private:
    // The tokens read of the text at one place.
    struct Held {
        const Sequence* text = nullptr;  // null where nothing is
        std::size_t sequence = 0;        // of the model
        std::size_t n_read = 0;
    };

    void begin(const Request& request);
    void share_prefixes(const std::vector<Request>& requests, Interrupt& interrupt);
    void read_unread(const std::vector<Request>& requests, bool up_to_last, bool hidden, Interrupt& interrupt,
                     const Use& use);

    std::shared_ptr<BatchModel> model_;
    Source role_;
    std::vector<Held> held_;  // by place
    std::size_t n_decodes_ = 0;
};

}  // namespace colm
