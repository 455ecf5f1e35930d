// Long texts: they are read in pieces beside others, and models that cannot go back have checkpoints in them.
#include <set>

#include "world.h"

using colm::FinishReason;
using colm::Token;

namespace {

using Text = FakeModel::Text;

Text long_text(std::size_t n, Token first, Token step = 7) {
    Text text;
    for (std::size_t i = 0; i < n; ++i)
        text.push_back(static_cast<Token>(
            (static_cast<std::size_t>(first) + i * static_cast<std::size_t>(step) + i * i) % kVocab));
    return text;
}

Job long_job(Text prompt, const std::string& head = "never", int max_tokens = 4) {
    Job job;
    job.prompt = std::move(prompt);
    job.head = named(head);
    job.max_tokens = max_tokens;
    job.banned = {kEnd};
    return job;
}

Limits of(std::size_t n_slots, std::size_t n_ctx, std::size_t n_batch) {
    Limits limits;
    limits.n_slots = n_slots;
    limits.n_ctx = n_ctx;
    limits.base_batch = limits.assistant_batch = n_batch;
    return limits;
}

Limits recurrent(std::size_t n_ctx) {
    Limits limits = of(1, n_ctx, 64);
    limits.can_rewind = false;
    limits.checkpoint_bytes = 80;  // ten checkpoints of the fake
    return limits;
}

const colm::LocalExpert& expert(const World& w, std::size_t id) {
    return static_cast<const colm::LocalExpert&>(*w.loop->experts()[id]);
}

std::size_t count(const FakeModel& model, const std::string& beginning) {
    std::size_t n = 0;
    for (const std::string& line : model.log) n += line.rfind(beginning, 0) == 0 ? 1 : 0;
    return n;
}

// What each model reads for one more text.
std::vector<std::size_t> read_for(World& w, const Models& models, const Job& job, std::size_t n_ctx) {
    const std::size_t before[2] = {w.base->n_read, w.assistant->n_read};
    w.add(std::vector<Job>{job});
    w.run();
    check_text(w.written.at(w.texts.back()->id()), write_alone(models, job, n_ctx));
    return {w.base->n_read - before[0], w.assistant->n_read - before[1]};
}

}  // namespace

// The oracle with texts of some hundred tokens, which begin like others, in slots enough or too few, some
// cancelled while they are read.
TEST_CASE("long_texts: are what each is alone") {
    reference::Random random(21);
    std::size_t n_back = 0;
    std::size_t n_restored = 0;
    std::size_t n_cut = 0;
    std::size_t n_cancelled = 0;
    for (std::uint32_t round = 0; round < reference::rounds(80); ++round) {
        Models models;
        models.base = random_function(round, kVocab);
        models.assistant = nearly(models.base, round + 7, kVocab, 0.5);
        Limits limits = of(1 + random.below(3), 500, 0);
        limits.base_batch = limits.n_slots + random.below(90);
        limits.assistant_batch = 2 + random.below(90);
        limits.n_outputs = 2 + random.below(15);
        limits.cache_bytes = random.chance(0.5) ? 40000 : 0;
        limits.can_rewind = random.chance(0.4);
        limits.checkpoint_bytes = random.chance(0.8) ? 8 * (1 + random.below(12)) : 0;
        World w(models, limits);
        const Text chats[2] = {long_text(300, 1), long_text(300, 2)};
        std::vector<Job> jobs = random_jobs(random, 3 + random.below(4));
        for (Job& job : jobs) {
            const Text& chat = chats[random.below(2)];
            const auto n = static_cast<std::ptrdiff_t>(100 + 100 * random.below(3));
            if (random.chance(0.6)) job.prompt.clear();
            job.prompt.insert(job.prompt.begin(), chat.begin(), chat.begin() + n);
        }
        std::set<std::size_t> cancelled;
        for (std::size_t i = 0; i < jobs.size(); ++i) {
            w.add(jobs, i, i + 1);
            if (random.chance(0.5))
                w.run();
            else
                for (std::size_t n = random.below(20); n > 0; --n) w.step();
            if (random.chance(0.2)) {
                const std::size_t number = random.below(i + 1);
                if (w.written[number].reason == FinishReason::none) {
                    cancelled.insert(number);
                    w.cancel(number);
                }
            }
            if (random.chance(0.2)) {  // its reader is away: it may lose its slot in the middle
                const auto& text = w.texts[random.below(i + 1)];
                w.loop->rest(*text);
                w.step();
                w.loop->want(text);
            }
        }
        w.run();
        for (std::size_t i = 0; i < jobs.size(); ++i) {
            const Written& got = w.written.at(i);
            const Written alone = write_alone(models, jobs[i], limits.n_ctx);
            if (got.reason != FinishReason::cancelled) {
                check_text(got, alone);
                continue;
            }
            ++n_cancelled;
            REQUIRE_EQ(cancelled.count(i), 1);
            REQUIRE(std::equal(got.sequence.tokens.begin(), got.sequence.tokens.end(),
                               alone.sequence.tokens.begin()));
        }
        for (const auto& model : {w.base, w.assistant}) {
            n_back += count(*model, "back ");
            n_restored += count(*model, "restore ");
        }
        n_cut += w.loop->n_steps() < w.base->batches.size() ? 1 : 0;
        for (const std::size_t id : {0, 1})
            REQUIRE(expert(w, id).checkpoint_bytes() <= limits.checkpoint_bytes);
    }
    REQUIRE(n_back > reference::rounds(50));
    REQUIRE(n_restored > reference::rounds(5));
    REQUIRE(n_cut > reference::rounds(10));
    REQUIRE(n_cancelled > reference::rounds(10));
}

TEST_CASE("a long text is read in pieces and the others write between them") {
    for (const std::string head : {"never", "always"})
        for (const bool can_rewind : {true, false}) {
            const Models models;
            Limits limits = of(2, 1100, 100);
            limits.can_rewind = can_rewind;
            World w(models, limits);
            std::vector<Job> jobs = {long_job({5, 6}, head, 40), long_job(long_text(1000, 3), head)};
            w.add(jobs, 0, 1);
            for (int i = 0; i < 3; ++i) w.step();
            REQUIRE_EQ(w.written[0].steps.size(), 3);
            w.add(jobs, 1);
            std::size_t n_steps = 0;
            for (; w.written[1].steps.empty(); ++n_steps) {
                w.step();
                REQUIRE_EQ(w.written[0].steps.size(), 4 + n_steps);  // a token with each piece
            }
            // With the token of the other, 99 of a piece fill a batch.
            REQUIRE_EQ(n_steps, 11);
            w.run();
            for (std::size_t i = 0; i < 2; ++i)
                check_text(w.written.at(i), write_alone(models, jobs[i], limits.n_ctx));
            FakeModel& reader = head == "never" ? *w.base : *w.assistant;
            REQUIRE_EQ(reader.n_read, 2 + 39 + 1000 + 3);  // none twice
            for (const std::size_t size : reader.sizes) REQUIRE(size <= 100);
            const colm::Stats& stats = w.written[1].sequence.stats;
            REQUIRE_EQ(head == "never" ? stats.of(0).tokens_read : stats.of(1).tokens_read, 1003);
        }
}

TEST_CASE("of two long texts the one that came first is read first") {
    Limits limits = of(3, 600, 50);
    const Models models;
    World w(models, limits);
    std::vector<Job> jobs = {long_job({5, 6}, "never", 60), long_job(long_text(500, 3)),
                             long_job(long_text(500, 4))};
    w.add(jobs);
    w.run();
    REQUIRE_EQ(w.ended[0], 1);
    REQUIRE_EQ(w.ended[1], 2);
    for (std::size_t i = 0; i < 3; ++i)
        check_text(w.written.at(i), write_alone(models, jobs[i], limits.n_ctx));
}

TEST_CASE("a long beginning that two texts share is read once in pieces") {
    Limits limits = of(2, 600, 50);
    const Models models;
    World w(models, limits);
    std::vector<Job> jobs(2, long_job(long_text(500, 3)));
    jobs[1].prompt.push_back(9);
    w.add(jobs);
    w.run();
    REQUIRE(w.base->n_read <= 500 + 1 + 2 * 4);
    for (std::size_t i = 0; i < 2; ++i)
        check_text(w.written.at(i), write_alone(models, jobs[i], limits.n_ctx));
}

TEST_CASE("an interrupt or an error between two pieces changes nothing in the texts") {
    const Models models;
    for (const bool fails : {false, true})
        for (const bool can_rewind : {true, false})
            for (std::size_t at = 2; at < 12; ++at) {
                Limits limits = of(2, 500, 50);
                limits.can_rewind = can_rewind;
                limits.checkpoint_bytes = 80;
                World w(models, limits);
                const std::vector<Job> jobs = {long_job({5, 6}, "random", 30),
                                               long_job(long_text(400, 3), "random")};
                w.add(jobs);
                w.base->on_eval = [&](std::size_t i, colm::Interrupt&) {
                    if (i != at) return;
                    if (fails) throw colm::GenerationError("decode failed");
                    throw colm::Cancelled();
                };
                for (bool more = true; more;) {
                    try {
                        more = w.step();
                    } catch (const colm::Cancelled&) {
                    }
                }
                REQUIRE_EQ(w.ended.size(), 2);
                for (std::size_t i = 0; i < 2; ++i)
                    if (w.written[i].reason != FinishReason::failed)
                        check_text(w.written.at(i), write_alone(models, jobs[i], limits.n_ctx));
            }
}

TEST_CASE("cancelling a text that is read in pieces stops the decode") {
    World w{Models(), of(1, 600, 50)};
    w.add(std::vector<Job>{long_job(long_text(500, 3))});
    for (int i = 0; i < 3; ++i) w.step();
    w.base->on_eval = [&](std::size_t, colm::Interrupt& interrupt) {
        REQUIRE(!w.loop->cancel(*w.texts[0]));
        REQUIRE(interrupt.requested());
        throw colm::Cancelled();
    };
    w.run();
    REQUIRE_EQ(w.written[0].reason, FinishReason::cancelled);
    REQUIRE_EQ(w.base->n_read, 150);
}

// -- checkpoints

TEST_CASE("a model that cannot go back reads from the last checkpoint before the change") {
    const Models models;
    const Limits limits = recurrent(1000);
    World w(models, limits);
    const Text prompt = long_text(300, 1);
    using Reads = std::vector<std::size_t>;
    // The base reads the prompt and three of four tokens; the last of them nobody needs.
    REQUIRE_EQ(read_for(w, models, long_job(prompt), 1000), (Reads{303, 0}));
    // The same again: from the end of the prompt, whose last token is read anew.
    REQUIRE_EQ(read_for(w, models, long_job(prompt), 1000), (Reads{4, 0}));
    // Another answer was in the chat, and a new message behind it.
    Text chat = prompt;
    chat.insert(chat.end(), 50, 4);
    REQUIRE_EQ(read_for(w, models, long_job(chat), 1000), (Reads{1 + 50 + 3, 0}));
    // A change in the middle: from the checkpoint at 256 tokens, which lies there because texts have some
    // every so often.
    chat[280] = static_cast<Token>((chat[280] + 1) % kVocab);
    REQUIRE_EQ(read_for(w, models, long_job(chat), 1000), (Reads{350 - 256 + 3, 0}));
    // A change before all of them.
    chat[3] = static_cast<Token>((chat[3] + 1) % kVocab);
    REQUIRE_EQ(read_for(w, models, long_job(chat), 1000), (Reads{353, 0}));
}

TEST_CASE("a whole continuation needs no checkpoint and makes one where it begins") {
    const Models models;
    World w(models, recurrent(1000));
    Text chat = long_text(200, 1);
    read_for(w, models, long_job(chat, "never", 40), 1000);
    chat = w.written.at(0).sequence.tokens;
    const std::size_t n_first = chat.size();
    chat.insert(chat.end(), 60, 4);
    using Reads = std::vector<std::size_t>;
    REQUIRE_EQ(read_for(w, models, long_job(chat), 1000), (Reads{1 + 60 + 3, 0}));
    // The message is written anew: from the end of the answer before it.
    std::fill(chat.begin() + static_cast<std::ptrdiff_t>(n_first), chat.end(), 5);
    REQUIRE_EQ(read_for(w, models, long_job(chat), 1000), (Reads{1 + 60 + 3, 0}));
}

TEST_CASE("checkpoints go with a text that leaves its slot") {
    const Models models;
    Limits limits = recurrent(1000);
    limits.cache_bytes = 100000;
    World w(models, limits);
    const Text prompts[2] = {long_text(300, 1), long_text(300, 2)};
    for (const Text& prompt : prompts) read_for(w, models, long_job(prompt, "random"), 1000);
    for (int turn = 0; turn < 4; ++turn) {
        // Each time with another answer behind the prompt.
        Job job = long_job(prompts[turn % 2], "random");
        job.seed = static_cast<std::uint32_t>(turn);
        job.prompt.insert(job.prompt.end(), 20, static_cast<Token>(turn + 3));
        const std::vector<std::size_t> n = read_for(w, models, job, 1000);
        REQUIRE(n[0] <= 1 + 20 + 3);
        REQUIRE(n[1] <= 1 + 20 + 3 + 16);  // it may have been asked first behind the end of the prompt
    }
}

TEST_CASE("checkpoints are no more than they may be and the crowded ones go first") {
    const Models models;
    Limits limits = recurrent(3000);
    limits.checkpoint_bytes = 32;  // four
    World w(models, limits);
    read_for(w, models, long_job(long_text(2000, 1)), 3000);
    const colm::Checkpoints& kept = expert(w, 0).checkpoints(0);
    REQUIRE_EQ(kept.size(), 4);
    REQUIRE_EQ(kept.back().n_tokens, 1999);  // the end of the prompt
    std::size_t before = 0;
    for (const colm::Checkpoint& checkpoint : kept) {
        REQUIRE(checkpoint.n_tokens - before <= 1100);
        before = checkpoint.n_tokens;
    }
    REQUIRE(w.base->n_checkpoints >= 8);
    w.loop->forget();
    REQUIRE_EQ(expert(w, 0).checkpoint_bytes(), 0);
}

TEST_CASE("a checkpoint that llama cpp refuses is read again") {
    const Models models;
    World w(models, recurrent(1000));
    const Text prompt = long_text(300, 1);
    read_for(w, models, long_job(prompt), 1000);
    w.base->can_restore = false;
    REQUIRE_EQ(read_for(w, models, long_job(prompt), 1000)[0], 303);
}

TEST_CASE("models that go back make no checkpoints") {
    Limits limits = recurrent(1000);
    limits.can_rewind = true;
    const Models models;
    World w(models, limits);
    REQUIRE_EQ(read_for(w, models, long_job(long_text(300, 1)), 1000)[0], 303);
    REQUIRE_EQ(w.base->n_checkpoints, 0);
    REQUIRE_EQ(w.base->batches[0].size(), 64);
}
