#include "colm/reader.h"

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "check.h"
#include "colm/error.h"
#include "fake_model.h"
#include "reference.h"

using colm::Cancelled;
using colm::DecodeCall;
using colm::GenerationError;
using colm::Interrupt;
using colm::Output;
using colm::Source;

namespace {

using Text = FakeModel::Text;
using Log = std::vector<std::string>;

constexpr std::uint32_t kSeed = 7;

struct Fixture {
    explicit Fixture(FakeModelOptions options = {})
        : model_(random_model(kSeed, options)), model(*model_), reader(std::move(model_), Source::base) {}

    // Reads `tokens` and checks the answer.
    void read(const Text& tokens, bool hidden = false) {
        const Output output = reader.read(tokens, hidden, interrupt, calls);
        const std::vector<float> got(output.logits.begin(), output.logits.end());
        CHECK_EQ(got, random_function(kSeed, model.n_vocab())(tokens));
        CHECK_EQ(output.hidden != nullptr, hidden);
        if (hidden) {
            const std::vector<float> state(output.hidden, output.hidden + model.n_embd());
            CHECK_EQ(state, random_function(kSeed + 1000, model.n_embd())(tokens));
        }
        CHECK_EQ(reader.held(), tokens);
    }

    std::unique_ptr<FakeModel> model_;
    FakeModel& model;
    colm::Reader reader;
    Interrupt interrupt;
    std::vector<DecodeCall> calls;
};

FakeModelOptions batches_of(std::size_t n_batch, bool can_rewind = true) {
    FakeModelOptions options;
    options.n_batch = n_batch;
    options.can_rewind = can_rewind;
    return options;
}

Text count_to(int n) {
    Text tokens;
    for (int i = 1; i <= n; ++i) tokens.push_back(i % 8);
    return tokens;
}

}  // namespace

TEST(reader_reads_a_text_in_one_go) {
    Fixture f;
    f.read({1, 2, 3});
    CHECK_EQ(f.model.log, (Log{"eval 0 [1, 2, 3] logits"}));
}

TEST(reader_reads_only_what_is_new) {
    Fixture f;
    f.read({1, 2, 3});
    f.read({1, 2, 3, 4});
    f.read({1, 2, 3, 4, 5, 6, 7});
    CHECK_EQ(f.model.log, (Log{"eval 0 [1, 2, 3] logits", "eval 3 [4] logits", "eval 4 [5, 6, 7] logits"}));
}

TEST(reader_goes_back_to_the_first_difference) {
    Fixture f;
    f.read({1, 2, 3, 4, 5});
    f.model.take_log();
    f.read({1, 2, 7, 4, 5});
    CHECK_EQ(f.model.take_log(), (Log{"rewind 2 -> 2", "eval 2 [7, 4, 5] logits"}));
    f.read({6});
    CHECK_EQ(f.model.take_log(), (Log{"rewind 0 -> 0", "eval 0 [6] logits"}));
}

TEST(reader_always_reads_the_last_token) {
    Fixture f;
    f.read({1, 2, 3, 4});
    f.model.take_log();
    f.read({1, 2, 3, 4});
    CHECK_EQ(f.model.take_log(), (Log{"rewind 3 -> 3", "eval 3 [4] logits"}));
    f.read({1, 2});  // a beginning of what it holds
    CHECK_EQ(f.model.take_log(), (Log{"rewind 1 -> 1", "eval 1 [2] logits"}));
    f.read({1});
    CHECK_EQ(f.model.take_log(), (Log{"rewind 0 -> 0", "eval 0 [1] logits"}));
}

TEST(reader_reads_in_batches) {
    Fixture f(batches_of(4));
    f.read({1, 2, 3, 4, 5, 6, 7, 0, 1, 2});
    CHECK_EQ(f.model.take_log(),
             (Log{"eval 0 [1, 2, 3, 4] nothing", "eval 4 [5, 6, 7, 0] nothing", "eval 8 [1, 2] logits"}));
    f.reader.reset();
    f.model.take_log();
    f.read(count_to(8));  // no rest
    CHECK_EQ(f.model.take_log(), (Log{"eval 0 [1, 2, 3, 4] nothing", "eval 4 [5, 6, 7, 0] logits"}));
    f.reader.reset();
    f.model.take_log();
    f.read(count_to(4));
    CHECK_EQ(f.model.take_log(), (Log{"eval 0 [1, 2, 3, 4] logits"}));
}

TEST(reader_reads_hidden_states_alone) {
    // The last token of a prompt by itself with outputs, everything before without.
    Fixture f(batches_of(4));
    f.read({5}, true);
    CHECK_EQ(f.model.take_log(), (Log{"eval 0 [5] logits and hidden"}));
    f.read({5, 6}, true);
    CHECK_EQ(f.model.take_log(), (Log{"eval 1 [6] logits and hidden"}));
    f.read({5, 6, 7, 0}, true);  // a few tokens behind it together
    CHECK_EQ(f.model.take_log(), (Log{"eval 2 [7, 0] logits and hidden"}));
    f.reader.reset();
    f.model.take_log();
    f.read(count_to(5), true);  // a whole batch before the last token
    CHECK_EQ(f.model.take_log(), (Log{"eval 0 [1, 2, 3, 4] nothing", "eval 4 [5] logits and hidden"}));
    f.reader.reset();
    f.model.take_log();
    f.read(count_to(6), true);
    CHECK_EQ(f.model.take_log(),
             (Log{"eval 0 [1, 2, 3, 4] nothing", "eval 4 [5] nothing", "eval 5 [6] logits and hidden"}));
    f.read(count_to(6), true);  // again
    CHECK_EQ(f.model.take_log(), (Log{"rewind 5 -> 5", "eval 5 [6] logits and hidden"}));
}

TEST(reader_with_batches_of_one) {
    Fixture f(batches_of(1));
    f.read({1, 2, 3}, true);
    f.read({1, 2, 3, 4, 5}, false);
    CHECK_EQ(f.model.log, (Log{"eval 0 [1] nothing", "eval 1 [2] nothing", "eval 2 [3] logits and hidden",
                               "eval 3 [4] nothing", "eval 4 [5] logits"}));
}

TEST(reader_fills_the_context) {
    FakeModelOptions options = batches_of(8);
    options.n_ctx = 20;
    Fixture f(options);
    f.read(count_to(20), true);
    CHECK_EQ(f.reader.held().size(), 20);
    f.read(count_to(20));
}

TEST(reader_starts_over_where_rewinding_is_refused) {
    Fixture f(batches_of(16, false));
    f.read({1, 2, 3});
    f.read({1, 2, 3, 4});
    CHECK_EQ(f.model.take_log(), (Log{"eval 0 [1, 2, 3] logits", "eval 3 [4] logits"}));
    f.read({1, 2, 3, 5});
    CHECK_EQ(f.model.take_log(), (Log{"rewind 3 -> 0", "eval 0 [1, 2, 3, 5] logits"}));
    f.read({1, 2, 3, 5}, true);
    CHECK_EQ(f.model.take_log(),
             (Log{"rewind 3 -> 0", "eval 0 [1, 2, 3] nothing", "eval 3 [5] logits and hidden"}));
}

TEST(reader_lists_its_decodes) {
    Fixture f(batches_of(4));
    f.read(count_to(6), true);
    f.read(count_to(7));
    CHECK_EQ(f.calls.size(), 4);
    const std::vector<DecodeCall> expected = {{Source::base, 0, 4, false, false},
                                              {Source::base, 4, 1, false, false},
                                              {Source::base, 5, 1, true, true},
                                              {Source::base, 6, 1, true, false}};
    for (std::size_t i = 0; i < 4; ++i) {
        CHECK(f.calls[i].model == expected[i].model);
        CHECK_EQ(f.calls[i].position, expected[i].position);
        CHECK_EQ(f.calls[i].n_tokens, expected[i].n_tokens);
        CHECK_EQ(f.calls[i].outputs, expected[i].outputs);
        CHECK_EQ(f.calls[i].hidden, expected[i].hidden);
    }
    colm::Reader assistant(random_model(1), Source::assistant);
    assistant.read({1}, false, f.interrupt, f.calls);
    CHECK(f.calls.back().model == Source::assistant);
}

TEST(reader_cancelled_before_it_begins) {
    Fixture f;
    Interrupt requested;
    requested.request();
    CHECK_THROWS(Cancelled, f.reader.read({1, 2}, false, requested, f.calls), "");
    CHECK_EQ(f.model.log, Log{});
    f.read({1, 2});
}

TEST(reader_cancelled_between_batches_goes_on_from_there) {
    for (const bool hidden : {false, true}) {
        Fixture f(batches_of(4));
        f.model.on_eval = [](std::size_t i, Interrupt& interrupt) {
            if (i == 1) interrupt.request();  // the decode itself is not disturbed
        };
        Interrupt interrupt;
        CHECK_THROWS(Cancelled, f.reader.read(count_to(10), hidden, interrupt, f.calls), "");
        CHECK_EQ(f.reader.held(), count_to(8));
        f.model.take_log();
        f.read(count_to(10));
        CHECK_EQ(f.model.log, (Log{"eval 8 [1, 2] logits"}));  // nothing is read twice
    }
}

TEST(reader_polls_the_host) {
    Fixture f(batches_of(1));
    bool stop = false;
    int n_polls = 0;
    Interrupt interrupt([&] {
        ++n_polls;
        return stop;
    });
    f.reader.read({1}, false, interrupt, f.calls);
    CHECK_EQ(n_polls, 1);
    stop = true;
    Interrupt again([&] { return stop; });
    CHECK_THROWS(Cancelled, f.reader.read({1, 2}, false, again, f.calls), "");
    stop = false;
    CHECK_THROWS(Cancelled, again.check(), "");  // once asked, for good
    // Asking Python takes its lock, so it is asked at most every 20 ms.
    const auto start = std::chrono::steady_clock::now();
    n_polls = 0;
    for (int i = 0; i < 1000; ++i) interrupt.check();
    const auto passed = std::chrono::steady_clock::now() - start;
    CHECK(n_polls <= 1 + passed / std::chrono::milliseconds(20));
}

TEST(reader_after_a_failed_decode) {
    for (const bool cancelled : {false, true}) {
        for (const bool can_rewind : {false, true}) {
            Fixture f(batches_of(4, can_rewind));
            f.model.on_eval = [&](std::size_t i, Interrupt&) {
                if (i != 1) return;
                if (cancelled) throw Cancelled();
                throw GenerationError("decode failed");
            };
            if (cancelled)
                CHECK_THROWS(Cancelled, f.reader.read(count_to(7), false, f.interrupt, f.calls), "");
            else
                CHECK_THROWS(GenerationError, f.reader.read(count_to(7), false, f.interrupt, f.calls),
                             "failed");
            CHECK_EQ(f.calls.size(), 2);
            CHECK_EQ(f.reader.held(), count_to(4));
            f.model.take_log();
            f.read(count_to(7));
            if (can_rewind)
                CHECK_EQ(f.model.log, (Log{"rewind 4 -> 4", "eval 4 [5, 6, 7] logits"}));
            else
                CHECK_EQ(f.model.log,
                         (Log{"rewind 4 -> 0", "eval 0 [1, 2, 3, 4] nothing", "eval 4 [5, 6, 7] logits"}));
        }
    }
}

TEST(reader_after_a_failed_first_decode) {
    Fixture f;
    f.model.on_eval = [](std::size_t i, Interrupt&) {
        if (i < 2) throw GenerationError("decode failed");
    };
    CHECK_THROWS(GenerationError, f.reader.read({1, 2, 3, 4}, false, f.interrupt, f.calls), "failed");
    CHECK_THROWS(GenerationError, f.reader.read({1, 2, 3, 4}, false, f.interrupt, f.calls), "failed");
    f.read({1, 2, 3, 4});
    CHECK_EQ(f.model.log, (Log{"eval 0 [1, 2, 3, 4] logits", "rewind 0 -> 0", "eval 0 [1, 2, 3, 4] logits",
                               "rewind 0 -> 0", "eval 0 [1, 2, 3, 4] logits"}));
}

TEST(reader_another_text_after_a_failed_decode) {
    Fixture f;
    f.read({1, 2, 3});
    f.model.on_eval = [](std::size_t i, Interrupt&) {
        if (i == 1) throw GenerationError("decode failed");
    };
    CHECK_THROWS(GenerationError, f.reader.read({1, 2, 3, 4, 5}, false, f.interrupt, f.calls), "failed");
    f.model.take_log();
    f.read({1, 7});
    CHECK_EQ(f.model.log, (Log{"rewind 1 -> 1", "eval 1 [7] logits"}));
}

TEST(reader_reset) {
    Fixture f;
    f.read({1, 2, 3});
    f.reader.reset();
    CHECK_EQ(f.reader.held(), Text{});
    f.read({1, 2, 3});
    CHECK_EQ(f.model.log, (Log{"eval 0 [1, 2, 3] logits", "rewind 0 -> 0", "eval 0 [1, 2, 3] logits"}));
    // Also what a failed decode left.
    f.model.on_eval = [](std::size_t i, Interrupt&) {
        if (i == 2) throw GenerationError("decode failed");
    };
    CHECK_THROWS(GenerationError, f.reader.read({1, 2, 3, 4, 5}, false, f.interrupt, f.calls), "failed");
    f.reader.reset();
    f.model.take_log();
    f.read({4});
    CHECK_EQ(f.model.log, (Log{"eval 0 [4] logits"}));
}

TEST(reader_random_texts_and_failures) {
    for (std::uint32_t seed = 0; seed < 40; ++seed) {
        reference::Random random(seed);
        const bool can_rewind = seed % 3 != 0;
        Fixture f(batches_of(1 + random.below(6), can_rewind));
        bool fail_soon = false;
        f.model.on_eval = [&](std::size_t, Interrupt&) {
            if (fail_soon && random.chance(0.5)) throw GenerationError("decode failed");
        };
        Text tokens = {1};
        for (int round = 0; round < 60; ++round) {
            // Keeps a beginning, adds a few of few tokens.
            tokens.resize(1 + random.below(tokens.size()));
            for (std::size_t n = random.below(8); n > 0 && tokens.size() < 60; --n)
                tokens.push_back(static_cast<colm::Token>(random.below(2)));
            const Text held = f.reader.held();
            fail_soon = random.chance(0.2);
            const bool hidden = random.chance(0.3);
            try {
                f.reader.read(tokens, hidden, f.interrupt, f.calls);
            } catch (const GenerationError&) {
                fail_soon = false;
                f.read(tokens, hidden);
                f.model.n_read = 0;
                continue;
            }
            // As few tokens as can be. Once more with the answer checked, which reads the last token again.
            std::size_t common = 0;
            while (common < held.size() && common + 1 < tokens.size() && held[common] == tokens[common])
                ++common;
            if (!can_rewind && common < held.size()) common = 0;
            CHECK_EQ(f.model.n_read, tokens.size() - common);
            fail_soon = false;
            f.read(tokens, hidden);
            f.model.n_read = 0;
        }
    }
}
