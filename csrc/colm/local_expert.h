// An expert whose model lies in this process: it knows what each slot has read, and reads what it has not.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <vector>

#include "colm/expert.h"
#include "colm/language_model.h"

namespace colm {

class LocalExpert final : public Expert {
  public:
    // Of the model's ids those below `n_ids` may be chosen. `id` is what decodes are noted under.
    LocalExpert(std::shared_ptr<LanguageModel> model, ExpertId id, std::size_t n_ids);

    std::size_t n_slots() const override { return model_->n_sequences(); }
    std::size_t n_ctx() const override { return model_->n_ctx() / model_->n_sequences(); }
    std::size_t n_counts() const override { return model_->n_outputs(); }
    bool goes_back() const override { return goes_back_ && model_->can_rewind(); }

    void ask(std::vector<Question> questions) override;
    // Reads only what differs from what the slots hold, of all questions in the same batches, and a beginning
    // that several texts share once. After a failed decode every question is answered with its error, and
    // every text is forgotten.
    void collect(bool wait, Interrupt& interrupt, const Use& use) override;
    void drop(std::size_t slot) override;

    std::size_t n_known(std::size_t slot, const std::vector<Token>& tokens) const override;
    std::size_t n_held(std::size_t slot) const override { return slots_[slot].held.size(); }
    void forget() override;
    std::unique_ptr<SavedSlot> save(std::size_t slot) override;
    bool restore(std::size_t slot, const SavedSlot& saved) override;

    const LanguageModel& model() const { return *model_; }
    LanguageModel& model() { return *model_; }
    // Calls of llama_decode so far.
    std::size_t n_decodes() const { return n_decodes_; }

  private:
    struct Slot {
        std::vector<Token> held;  // the tokens read
        bool uncertain = false;   // a decode failed half-way, so the model may hold more
    };
    struct Open {
        Question question;
        std::size_t n_answered = 0;
        bool done = false;
    };
    class Batch;

    void go_back(const Question& question);
    void share_beginnings(Interrupt& interrupt, const Use& use);
    // Reads the questions from `begin` on, before `end`: with their outputs, or without the tokens whose
    // outputs are wanted.
    void read(std::size_t begin, std::size_t end, bool outputs, Interrupt& interrupt, const Use& use);
    void answer(Open& open, std::size_t place, bool hidden, const Use& use);

    std::shared_ptr<LanguageModel> model_;
    ExpertId id_;
    std::size_t n_ids_;
    std::vector<Slot> slots_;
    std::vector<Open> open_;  // by slot, ascending
    std::atomic<std::size_t> n_decodes_{0};
    bool goes_back_ = true;
};

}  // namespace colm
