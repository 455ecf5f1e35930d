#include "colm/batch_invariance.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "check.h"
#include "fake_model.h"

namespace {

enum class What : std::uint8_t { logits, hidden, behind };

// Reads batches of `from` tokens or more a little otherwise: their logits, their hidden states, or what they
// leave behind.
class Rounding final : public colm::LanguageModel {
  public:
    Rounding(FakeModelOptions options, std::size_t from, What what)
        : model_(options, random_function(1, options.n_vocab), random_function(2, options.n_embd)),
          from_(from),
          what_(what) {}

    std::size_t n_vocab() const override { return model_.n_vocab(); }
    std::size_t n_embd() const override { return model_.n_embd(); }
    std::size_t n_ctx() const override { return model_.n_ctx(); }
    std::size_t n_batch() const override { return model_.n_batch(); }
    std::size_t n_outputs() const override { return model_.n_outputs(); }
    std::size_t n_sequences() const override { return model_.n_sequences(); }
    bool can_rewind() const override { return model_.can_rewind(); }
    std::size_t rewind(std::size_t sequence, std::size_t n) override {
        marked_.erase(std::remove_if(marked_.begin(), marked_.end(), [n](std::size_t p) { return p >= n; }),
                      marked_.end());
        return model_.rewind(sequence, n);
    }
    std::vector<std::uint8_t> save(std::size_t sequence) override { return model_.save(sequence); }
    bool restore(std::size_t sequence, std::size_t n, const std::vector<std::uint8_t>& bytes) override {
        return model_.restore(sequence, n, bytes);
    }
    std::size_t copy(std::size_t from, std::size_t to, std::size_t n) override {
        return model_.copy(from, to, n);
    }
    void forget(std::size_t sequence) override { model_.forget(sequence); }
    void clear() override { model_.clear(); }
    void eval_batch(colm::View<const colm::BatchToken> tokens, bool hidden,
                    colm::Interrupt& interrupt) override {
        model_.eval_batch(tokens, hidden, interrupt);
        last_size_ = tokens.size;
        // The long batches that fill the cache are the same for all that is compared.
        if (hidden && tokens.size >= from_) marked_.push_back(tokens[0].position);
    }
    // Of a long batch only the first token's is another.
    colm::Output output(std::size_t i) override {
        const bool otherwise = i == 0 && last_size_ >= from_;
        const bool behind = last_size_ == 1 && !marked_.empty();
        colm::Output output = nudged(model_.output(i), behind || (otherwise && what_ == What::logits));
        if (otherwise && what_ == What::hidden) {
            hidden_.assign(output.hidden, output.hidden + n_embd());
            hidden_.back() = std::nextafter(hidden_.back(), 100.0f);
            output.hidden = hidden_.data();
        }
        return output;
    }

  private:
    static colm::Output nudged(colm::Output output, bool by_a_bit) {
        if (by_a_bit) {
            float& logit = output.logits[output.logits.size - 1];
            logit = std::nextafter(logit, 100.0f);
        }
        return output;
    }

    FakeModel model_;
    std::size_t from_;
    What what_;
    std::vector<float> hidden_;
    std::vector<std::size_t> marked_;
    std::size_t last_size_ = 0;
};

FakeModelOptions one_text() {
    FakeModelOptions options;
    options.n_batch = 16;
    options.n_outputs = 16;
    options.n_sequences = 1;
    return options;
}

std::size_t measured(std::size_t from, What what, FakeModelOptions options = one_text(),
                     std::size_t most = 12) {
    Rounding model(options, from, what);
    colm::Interrupt interrupt;
    return colm::invariant_batch(model, most, interrupt);
}

}  // namespace

TEST_CASE("batch_invariance: finds the size from which batches round otherwise") {
    for (const What what : {What::logits, What::hidden, What::behind}) {
        REQUIRE_EQ(measured(2, what), std::size_t{1});
        REQUIRE_EQ(measured(3, what), std::size_t{2});
        REQUIRE_EQ(measured(8, what), std::size_t{7});
        REQUIRE_EQ(measured(100, what), std::size_t{12});
    }
}

TEST_CASE("batch_invariance: keeps to the batch and the context") {
    FakeModelOptions options = one_text();
    options.n_batch = 5;
    REQUIRE_EQ(measured(100, What::logits, options), std::size_t{5});
    options.n_batch = 16;
    options.n_outputs = 4;
    REQUIRE_EQ(measured(100, What::logits, options), std::size_t{4});
    options.n_outputs = 16;
    options.n_ctx = 14;
    REQUIRE_EQ(measured(100, What::logits, options), std::size_t{12});
    options.n_ctx = 13;
    REQUIRE_EQ(measured(100, What::logits, options), std::size_t{1});
    options.n_ctx = 700;
    REQUIRE_EQ(measured(6, What::logits, options), std::size_t{5});
}

TEST_CASE("batch_invariance: of a model that cannot go back is one") {
    FakeModelOptions options = one_text();
    options.can_rewind = false;
    REQUIRE_EQ(measured(100, What::logits, options), std::size_t{1});
    options.admits_it = false;
    REQUIRE_EQ(measured(100, What::logits, options), std::size_t{1});
}
