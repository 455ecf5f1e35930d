#include "colm/batch_reader.h"

#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "colm/error.h"
#include "fake_batch_model.h"
#include "reference.h"

using colm::BatchReader;
using colm::DecodeCall;
using colm::Interrupt;
using colm::Output;
using colm::Sequence;
using colm::Source;
using colm::Token;

namespace {

using Text = FakeModel::Text;
using Log = std::vector<std::string>;
using Requests = std::vector<BatchReader::Request>;

FakeBatchOptions sizes(std::size_t n_batch, std::size_t n_ctx = 256) {
    FakeBatchOptions options;
    options.n_batch = n_batch;
    options.n_ctx = n_ctx;
    return options;
}

// One text for each sequence.
struct World {
    explicit World(std::vector<Text> begin, FakeBatchOptions options = {})
        : model(random_batch_model(1, options)), reader(model, Source::assistant), texts(begin.size()) {
        for (std::size_t i = 0; i < begin.size(); ++i) texts[i].tokens = std::move(begin[i]);
    }

    BatchReader::Request request(std::size_t i, bool output = true) { return {i, &texts[i], output}; }
    Requests all() {
        Requests requests;
        for (std::size_t i = 0; i < texts.size(); ++i) requests.push_back(request(i));
        return requests;
    }
    void append(std::size_t i, const Text& tokens) {
        texts[i].tokens.insert(texts[i].tokens.end(), tokens.begin(), tokens.end());
    }

    // Reads, and looks at the outputs when all is read: they have to last until then.
    void read(const Requests& requests, bool hidden = false) {
        std::vector<std::pair<std::size_t, Output>> outputs;
        reader.read(requests, hidden, interrupt,
                    [&](std::size_t i, const Output& output) { outputs.emplace_back(i, output); });
        std::vector<int> n_outputs(requests.size(), 0);
        for (const auto& [i, output] : outputs) {
            const Text& tokens = requests.at(i).text->tokens;
            CHECK_EQ(Text(model->text(reader.sequence(requests[i].place))), tokens);
            CHECK_EQ(std::vector<float>(output.logits.begin(), output.logits.end()), model->logits(tokens));
            CHECK_EQ(output.hidden != nullptr, hidden);
            if (hidden)
                CHECK_EQ(std::vector<float>(output.hidden, output.hidden + model->n_embd()),
                         model->hidden(tokens));
            ++n_outputs[i];
        }
        for (std::size_t i = 0; i < requests.size(); ++i) {
            CHECK_EQ(n_outputs[i], requests[i].output ? 1 : 0);
            CHECK_EQ(reader.n_read(requests[i].place), requests[i].text->tokens.size());
        }
    }

    std::shared_ptr<FakeBatchModel> model;
    BatchReader reader;
    std::vector<Sequence> texts;
    Interrupt interrupt;
};

Log shown(const std::vector<DecodeCall>& calls) {
    Log all;
    for (const DecodeCall& call : calls)
        all.push_back((call.model == Source::base ? "base " : "assistant ") + std::to_string(call.position) +
                      "+" + std::to_string(call.n_tokens) + (call.outputs ? " outputs" : "") +
                      (call.hidden ? " hidden" : ""));
    return all;
}

Text counted(Token first, std::size_t n) {
    Text text;
    for (std::size_t i = 0; i < n; ++i) text.push_back((first + static_cast<Token>(i)) % 9);
    return text;
}

}  // namespace

TEST(batch_reader_reads_what_is_unread_in_shared_batches) {
    World w({{1, 2, 3}, {4, 5}});
    w.read(w.all());
    CHECK_EQ(w.model->take_log(), (Log{"0@0: 1 2 3* | 1@0: 4 5*"}));
    w.append(0, {6});
    w.append(1, {7, 8});
    w.read(w.all());
    CHECK_EQ(w.model->take_log(), (Log{"0@3: 6* | 1@2: 7 8*"}));
    w.append(0, {1});
    w.append(1, {2});
    w.read({w.request(1)});
    CHECK_EQ(w.model->take_log(), (Log{"1@4: 2*"}));  // nobody asked for the other
    CHECK_EQ(w.reader.n_read(0), 4);
    w.append(1, {3});
    w.read(w.all());
    CHECK_EQ(w.model->take_log(), (Log{"0@4: 1* | 1@5: 3*"}));
    CHECK_EQ(w.reader.n_decodes(), 4);
}

TEST(batch_reader_hands_outputs_to_their_requests) {
    // Not all want an output, and later the requests are not in the order of their sequences.
    World w({{1, 2}, {3}, {4, 5, 6}, {7}});
    w.read({w.request(2), w.request(1, false), w.request(3), w.request(0)});
    CHECK_EQ(w.model->take_log(), (Log{"0@0: 4 5 6* | 1@0: 3 | 2@0: 7* | 3@0: 1 2*"}));
    for (std::size_t i = 0; i < 4; ++i) w.append(i, {8});
    w.read({w.request(0, false), w.request(1), w.request(3, false)});
    CHECK_EQ(w.model->take_log(), (Log{"1@1: 8* | 2@1: 8 | 3@2: 8"}));
}

TEST(batch_reader_leaves_no_gap_between_sequences) {
    // llama.cpp computes neighbouring sequences in one pass, and the others in passes of their own.
    World w({{1}, {2}, {3}, {4}});
    w.read({w.request(1), w.request(3)});
    CHECK_EQ(w.model->take_log(), (Log{"0@0: 2* | 1@0: 4*"}));
    w.append(1, {5});
    w.append(3, {6});
    w.read({w.request(0), w.request(3), w.request(1)});
    CHECK_EQ(w.model->take_log(), (Log{"0@1: 5* | 1@1: 6* | 2@0: 1*"}));
    // A new text takes the place of one that has ended.
    w.reader.forget(1);
    w.read({w.request(2)});
    CHECK_EQ(w.model->take_log(), (Log{"forget 0", "0@0: 3*"}));
    CHECK_EQ(w.reader.n_read(1), 0);
}

TEST(batch_reader_reads_prompts_before_hidden_states) {
    World w({{1, 2, 3}, {4}, {5, 6}});
    w.read(w.all(), true);
    CHECK_EQ(w.model->take_log(), (Log{"0@0: 1 2 | 2@0: 5", "0@2: 3* | 1@0: 4* | 2@1: 6* hidden"}));
    // Where only last tokens are unread there is nothing to read before.
    for (std::size_t i = 0; i < 3; ++i) w.append(i, {8});
    w.read(w.all(), true);
    CHECK_EQ(w.model->take_log(), (Log{"0@3: 8* | 1@1: 8* | 2@2: 8* hidden"}));
    CHECK_EQ(shown(w.texts[0].calls),
             (Log{"assistant 0+2", "assistant 2+1 outputs hidden", "assistant 3+1 outputs hidden"}));
    CHECK_EQ(shown(w.texts[1].calls), (Log{"assistant 0+1 outputs hidden", "assistant 1+1 outputs hidden"}));
}

TEST(batch_reader_has_all_outputs_in_the_last_batch) {
    // As many as a batch holds: one is enough.
    World fits({counted(0, 5), counted(3, 3)}, sizes(8));
    fits.read(fits.all());
    CHECK_EQ(fits.model->sizes, (std::vector<std::size_t>{8}));

    // World::read() looks at outputs when all is read, so none may be of an earlier batch.
    World w({{1, 2, 3, 4, 5}, {6, 7, 8, 1}}, sizes(8));
    w.read(w.all());
    CHECK_EQ(w.model->take_log(), (Log{"0@0: 1 2 3 4 | 1@0: 6 7 8", "0@4: 5* | 1@3: 1*"}));

    // A text is cut where the batch is full, and what wants no output is read to its end before.
    World cut({{1, 2, 3, 4, 5, 6}, {7, 8, 1, 2}, {3}}, sizes(4));
    cut.read({cut.request(0), cut.request(1, false), cut.request(2)});
    CHECK_EQ(cut.model->take_log(),
             (Log{"0@0: 1 2 3 4", "0@4: 5 | 1@0: 7 8 1", "1@3: 2", "0@5: 6* | 2@0: 3*"}));
    CHECK_EQ(cut.reader.n_decodes(), 4);
}

TEST(batch_reader_notes_each_decode_with_its_texts) {
    World w({{1, 2, 3, 4, 5}, {6, 7, 8, 1}, {2}}, sizes(8));
    w.read({w.request(0), w.request(1)});
    CHECK_EQ(shown(w.texts[0].calls), (Log{"assistant 0+4", "assistant 4+1 outputs"}));
    CHECK_EQ(shown(w.texts[1].calls), (Log{"assistant 0+3", "assistant 3+1 outputs"}));
    CHECK(w.texts[2].calls.empty());
    w.append(0, {6});
    w.read({w.request(0, false), w.request(2)});
    CHECK_EQ(shown(w.texts[0].calls).back(), "assistant 5+1");
    CHECK_EQ(shown(w.texts[2].calls), (Log{"assistant 0+1 outputs"}));

    const auto model = random_batch_model(1);
    BatchReader base(model, Source::base);
    base.read({w.request(2)}, false, w.interrupt, [](std::size_t, const Output&) {});
    CHECK_EQ(shown(w.texts[2].calls).back(), "base 0+1 outputs");
}

TEST(batch_reader_reads_again_what_it_forgot) {
    World w({{1, 2}, {3, 4}});
    w.read(w.all());
    w.model->take_log();
    w.reader.forget(0);
    CHECK_EQ(w.reader.n_read(0), 0);
    CHECK_EQ(w.reader.n_read(1), 2);
    w.append(1, {5});
    w.read(w.all());
    CHECK_EQ(w.model->take_log(), (Log{"forget 0", "0@0: 1 2* | 1@2: 5*"}));
    w.reader.clear();
    CHECK_EQ(w.reader.n_read(1), 0);
    w.read(w.all());
    CHECK_EQ(w.model->take_log(), (Log{"clear", "0@0: 1 2* | 1@0: 3 4 5*"}));
}

TEST(batch_reader_forgets_everything_after_a_failure) {
    for (const bool cancelled : {false, true}) {
        World w({{1, 2}, {3, 4}, {5}});
        w.read(w.all());
        w.append(0, {6});
        w.model->on_eval = [&](std::size_t, Interrupt&) {
            if (cancelled) throw colm::Cancelled();
            throw colm::GenerationError("decode failed");
        };
        const auto read = [&] {
            w.read({w.request(0)});
            return 0;
        };
        if (cancelled)
            CHECK_THROWS(colm::Cancelled, read(), "");
        else
            CHECK_THROWS(colm::GenerationError, read(), "decode failed");
        for (std::size_t i = 0; i < 3; ++i) CHECK_EQ(w.reader.n_read(i), 0);
        w.model->on_eval = {};
        w.model->take_log();
        w.read(w.all());
        CHECK_EQ(w.model->take_log(), (Log{"0@0: 1 2 6* | 1@0: 3 4* | 2@0: 5*"}));
        CHECK_EQ(w.reader.n_decodes(), 2);
    }
}

TEST(batch_reader_stops_between_batches) {
    World w({{1, 2, 3, 4, 5}, {6, 7, 8, 1}}, sizes(4));
    w.model->on_eval = [](std::size_t, Interrupt& interrupt) { interrupt.request(); };
    CHECK_THROWS(colm::Cancelled, (w.read(w.all()), 0), "");
    CHECK_EQ(w.model->sizes, (std::vector<std::size_t>{4}));
    CHECK_EQ(w.reader.n_read(0), 0);
}

TEST(batch_reader_reads_shared_beginnings_once) {
    const Text common = counted(0, 20);
    std::vector<Text> texts(3, common);
    texts[0].push_back(1);
    texts[1].insert(texts[1].end(), {2, 3});
    texts[2].resize(4);
    World w(texts, sizes(64));
    w.read(w.all());
    CHECK_EQ(w.model->sizes, (std::vector<std::size_t>{20, 1 + 2 + 4}));  // four tokens are soon read
    CHECK_EQ(shown(w.texts[1].calls), (Log{"assistant 20+2 outputs"}));
    // Of a text that is held and has grown meanwhile, by one that comes later; never all of it.
    w.reader.forget(1);
    w.texts[1] = {};
    w.append(1, common);
    w.append(0, {5});
    w.model->take_log();
    w.read({w.request(1), w.request(0)});
    CHECK_EQ(w.model->take_log(), (Log{"copy 19 from 0 to 1", "0@21: 5* | 1@19: 1*"}));

    // A model that cannot copy a part of a text reads it.
    FakeBatchOptions recurrent = sizes(64);
    recurrent.can_copy = false;
    World reads(texts, recurrent);
    reads.read(reads.all());
    std::size_t n_read = 0;
    for (const std::size_t n : reads.model->sizes) n_read += n;
    CHECK_EQ(n_read, 21U + 22U + 4U);
}

TEST(batch_reader_holds_a_share_of_the_context) {
    FakeBatchOptions options = sizes(8, 41);
    World w({}, options);
    CHECK_EQ(w.reader.n_ctx(), 10);
}

TEST(batch_reader_gives_every_output_of_growing_texts) {
    reference::Random random(7);
    for (int round = 0; round < 60; ++round) {
        FakeBatchOptions options;
        options.n_sequences = 1 + random.below(5);
        options.n_outputs = options.n_sequences;
        options.n_batch = options.n_outputs + random.below(6);
        options.n_ctx = 500;
        World w(std::vector<Text>(options.n_sequences), options);
        std::size_t n_unread = 0;
        for (int turn = 0; turn < 8; ++turn) {
            Requests requests;
            const bool hidden = random.chance(0.5);
            for (std::size_t i = 0; i < options.n_sequences; ++i) {
                if (random.chance(0.3)) continue;
                const std::size_t n_new = 1 + random.below(turn % 3 == 0 ? 9 : 2);
                for (std::size_t n = 0; n < n_new; ++n)
                    w.append(i, {static_cast<Token>(random.below(options.n_vocab))});
                requests.push_back(w.request(i, hidden || random.chance(0.7)));
                n_unread += n_new;
            }
            w.read(requests, hidden);
        }
        std::size_t n_read = 0;
        for (const std::size_t n : w.model->sizes) n_read += n;
        CHECK_EQ(n_read, n_unread);
        std::size_t n_noted = 0;
        for (const Sequence& text : w.texts) n_noted += colm::tokens_read(text.calls, 0);
        CHECK_EQ(n_noted, n_unread);
        CHECK_EQ(w.reader.n_decodes(), w.model->sizes.size());
    }
}
