// A model that reads many texts at once, together with the tokens that it has read of each.
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

    // A text to be read to its end, in the sequence that is its own until forget(), and whether the output
    // after its last token is wanted.
    struct Request {
        std::size_t sequence = 0;
        Sequence* text = nullptr;
        bool output = true;
    };
    // Given which request, and the output after its last token: borrowed until the next read().
    using Use = std::function<void(std::size_t, const Output&)>;

    // Brings the model to have read the text of every request, each an extension of what its sequence holds
    // by one token at least, and hands out the outputs. What is unread of all texts shares batches, and a
    // beginning that a new text has in common with another is read once. Every decode is noted in the `calls`
    // of the texts that take part. Requires at most n_outputs() requests, each for another sequence; with
    // `hidden` all want their output. Throws Cancelled or GenerationError; every text is then forgotten.
    void read(const std::vector<Request>& requests, bool hidden, Interrupt& interrupt, const Use& use);

    // Forgets the text of one sequence, which may then end, or every text: they are read again when they are
    // next asked for.
    void forget(std::size_t sequence);
    void clear();

    // How many tokens of a sequence's text are read.
    std::size_t n_read(std::size_t sequence) const { return n_read_[sequence]; }
    const BatchModel& model() const { return *model_; }
    // How many tokens each text may have.
    std::size_t n_ctx() const { return model_->n_ctx() / model_->n_sequences(); }
    // Calls of llama_decode so far.
    std::size_t n_decodes() const { return n_decodes_; }

  private:
    void share_prefixes(const std::vector<Request>& requests, Interrupt& interrupt);
    void read_unread(const std::vector<Request>& requests, bool up_to_last, bool hidden, Interrupt& interrupt,
                     const Use& use);

    std::shared_ptr<BatchModel> model_;
    Source role_;
    // Of each sequence: how many tokens are read, and of which text where there are any.
    std::vector<std::size_t> n_read_;
    std::vector<const Sequence*> texts_;
    std::size_t n_decodes_ = 0;
};

}  // namespace colm
