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
    // `checkpoint_bytes`: of the checkpoints in the texts of a model that cannot rewind.
    LocalExpert(std::shared_ptr<LanguageModel> model, ExpertId id, std::size_t n_ids,
                std::size_t checkpoint_bytes = 0);

    std::size_t n_slots() const override { return model_->n_sequences(); }
    std::size_t n_ctx() const override { return model_->n_ctx() / model_->n_sequences(); }
    std::size_t n_counts() const override { return model_->n_outputs(); }
    bool goes_back() const override { return goes_back_ && model_->can_rewind(); }

    void ask(std::vector<Question> questions) override;
    // Reads only what differs from what the slots hold, of all questions in the same batches, and a beginning
    // that several texts share once. Questions that need few tokens read are answered; the others get a batch
    // of tokens together, in the order in which they were asked. After a failed decode every question is
    // answered with its error, and every text is forgotten.
    void collect(bool wait, Interrupt& interrupt, const Use& use) override;
    void drop(std::size_t slot) override;

    std::size_t n_known(std::size_t slot, const std::vector<Token>& tokens) const override;
    std::size_t n_held(std::size_t slot) const override { return slots_[slot].held.size(); }
    std::size_t n_decodes() const override { return n_decodes_; }  // calls of llama_decode
    void forget() override;
    std::shared_ptr<const SavedSlot> save(std::size_t slot) override;
    bool restore(std::size_t slot, const SavedSlot& saved) override;

    const LanguageModel& model() const { return *model_; }
    LanguageModel& model() { return *model_; }
    // Of the checkpoints that slots have.
    std::size_t checkpoint_bytes() const;
    const Checkpoints& checkpoints(std::size_t slot) const { return slots_[slot].checkpoints; }

  private:
    struct Slot {
        std::vector<Token> held;  // the tokens read
        Checkpoints checkpoints;
        std::size_t n_checked = 0;  // tokens when the last one was made, or tried
        bool uncertain = false;     // a decode failed half-way, so the model may hold more
    };
    struct Open {
        Question question;
        std::size_t turn = 0;  // in the order in which they were asked
        bool begun = false;
        bool is_long = false;   // where it begins and where it ends, texts may part
        std::size_t until = 0;  // how far it is read in this call
        std::size_t n_answered = 0;
        bool done = false;
    };
    class Batch;

    void go_back(const Question& question);
    void plan(Interrupt& interrupt, const Use& use);
    void copy_beginning(const Question& question);
    void read_planned(Interrupt& interrupt, const Use& use);
    // Reads the questions from `begin` on, before `end`, as far as is planned: with their outputs, or without
    // the tokens whose outputs are wanted.
    void read(std::size_t begin, std::size_t end, bool outputs, Interrupt& interrupt, const Use& use);
    void answer(Open& open, std::size_t place, bool hidden, const Use& use);
    void keep_checkpoint(std::size_t slot, std::size_t apart);
    void drop_checkpoints();
    bool keeps_checkpoints() const;

    std::shared_ptr<LanguageModel> model_;
    ExpertId id_;
    std::size_t n_ids_;
    std::size_t most_checkpoint_bytes_;
    std::vector<Slot> slots_;
    std::vector<Open> open_;  // by slot, ascending
    std::size_t next_turn_ = 0;
    std::atomic<std::size_t> n_decodes_{0};
    bool goes_back_ = true;
};

}  // namespace colm
