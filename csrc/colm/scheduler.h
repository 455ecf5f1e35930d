// Many texts at once: every step writes a token of each, and they share the decodes of both models.
//
// The assistant stays lazy, but not text by text: where any text is deferred, it also reads what is new of
// all others that it was asked about before. Every token is read once all the same, and the runs that it
// reads are equally long for all texts, which llama.cpp computes in one pass.
#pragma once

#include <cstddef>
#include <deque>
#include <exception>
#include <memory>
#include <optional>
#include <vector>

#include "colm/batch_reader.h"
#include "colm/decision.h"
#include "colm/writing.h"

namespace colm {

class Scheduler {
  public:
    // Requires two models with the same number of sequences, each with room for as many outputs in one batch.
    Scheduler(std::shared_ptr<BatchModel> base, std::shared_ptr<BatchModel> assistant, Choices choices);
    ~Scheduler();

    // A text that has ended, whole or in an error of its own. Its `decode_s` goes from the step in which it
    // was first read to its end; `prefill_s`, which it shared with other texts' tokens, is not told apart.
    struct Finished {
        std::size_t number = 0;
        Writing writing;
        std::exception_ptr error;  // null where it ended well
    };

    // Adds a text, made with n_ctx(); it is begun when a sequence is free. `number` is the caller's name for
    // it.
    void add(std::size_t number, Writing writing);

    // Writes until a text ends and hands it out; nothing where there is no text. A text that fails does not
    // disturb the others. Throws Cancelled; every text then stands where it was.
    std::optional<Finished> next(Interrupt& interrupt);

    // How many tokens each text may have: the smaller of the two contexts.
    std::size_t n_ctx() const;
    // Texts at a time, and those added that have not been handed out.
    std::size_t n_sequences() const { return running_.size(); }
    std::size_t n_texts() const { return n_texts_; }
    const BatchReader& base() const { return base_; }
    const BatchReader& assistant() const { return assistant_; }
    // Steps made: each has one batch of the base's for all texts, and one of the assistant's for those
    // deferred (more where one is not large enough, as for prompts).
    std::size_t n_steps() const { return n_steps_; }

  private:
    struct Running;
    using Places = std::vector<std::size_t>;

    void begin_waiting();
    void step(Interrupt& interrupt);
    void read(BatchReader& reader, const Places& places, const Places& along, bool hidden,
              Interrupt& interrupt, const BatchReader::Use& use);
    void end(std::size_t place);

    BatchReader base_;
    BatchReader assistant_;
    Choices choices_;
    std::vector<std::unique_ptr<Running>> running_;  // by sequence; null where one is free
    std::deque<std::unique_ptr<Running>> waiting_;
    std::deque<std::unique_ptr<Running>> finished_;
    std::size_t n_texts_ = 0;
    std::size_t n_steps_ = 0;
};

}  // namespace colm
