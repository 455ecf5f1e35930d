#include "colm/text_stream.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "colm/error.h"
#include "reference.h"
#include "reference_utf8.h"

using colm::StreamedStep;
using colm::TextStream;
using reference::beginnings;
using reference::bytes;
using reference::decode;
using reference::encode;
using reference::kReplacement;
using reference::Random;

namespace {

using Pieces = std::vector<std::string>;

// The text up to the stop string that is complete first; of those, the one that began first.
std::string cut(const std::string& text, const Pieces& stop) {
    for (std::size_t end = 1; end <= text.size(); ++end) {
        std::size_t longest = 0;
        for (const std::string& s : stop)
            if (s.size() <= end && text.compare(end - s.size(), s.size(), s) == 0)
                longest = std::max(longest, s.size());
        if (longest > 0) return text.substr(0, end - longest);
    }
    return text;
}

// A stream with everything that left it; the step of piece i has token i.
struct Run {
    explicit Run(Pieces stop) : stream(std::move(stop)) {}

    void push(const std::string& piece) {
        colm::Step step;
        step.token = n_pushed++;
        stream.push(std::move(step), piece);
        collect();
    }
    void finish() {
        stream.finish();
        collect();
        REQUIRE_EQ(texts.size(), n_pushed);
    }
    void collect() {
        while (!stream.empty()) {
            const StreamedStep step = stream.pop();
            REQUIRE_EQ(step.step.token, texts.size());  // in order, none twice
            REQUIRE_EQ(decode(step.text), step.text);   // valid by itself
            texts.push_back(step.text);
            text += step.text;
        }
    }

    TextStream stream;
    int n_pushed = 0;
    Pieces texts;
    std::string text;
};

// What each piece's step carries in the end.
Pieces texts_of(const Pieces& stop, const Pieces& pieces) {
    Run run(stop);
    for (const std::string& piece : pieces) {
        if (run.stream.stopped()) break;
        run.push(piece);
    }
    run.finish();
    return run.texts;
}

// How many steps have left after each piece.
std::vector<std::size_t> released(const Pieces& stop, const Pieces& pieces) {
    Run run(stop);
    std::vector<std::size_t> counts;
    for (const std::string& piece : pieces) {
        run.push(piece);
        counts.push_back(run.texts.size());
    }
    return counts;
}

using Counts = std::vector<std::size_t>;

Pieces split(Random& random, const std::string& input) {
    Pieces pieces;
    for (std::size_t i = 0; i < input.size();) {
        const std::size_t n = random.below(5);  // 0: a control token
        pieces.push_back(input.substr(i, n));
        i += pieces.back().size();
    }
    return pieces;
}

std::string random_bytes(Random& random, std::size_t n) {
    // Bytes that meet often enough to form characters, broken ones, and the stop strings.
    static const std::string kAlphabet =
        std::string("aabbc") + bytes({0xC3, 0xA9, 0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x98, 0x80, 0xED, 0xA0, 0xE0,
                                      0xF4, 0x90, 0xFF, 0xC0});
    std::string all;
    while (all.size() < n) {
        if (random.chance(0.1))
            all += encode(0x20AC);
        else if (random.chance(0.1))
            all += encode(0x1F600);
        else
            all += kAlphabet[random.below(kAlphabet.size())];
    }
    return all;
}

// Pushes `pieces` and checks the stream against `decode` and `cut` all along.
void check_stream(const Pieces& stop, const Pieces& pieces) {
    Run run(stop);
    std::string all;
    for (const std::string& piece : pieces) {
        run.push(piece);
        all += piece;
        if (run.stream.stopped()) break;
        // However the text goes on, what has left stays its beginning: no part of a stop string was let go.
        for (const std::string& s : stop) {
            for (std::size_t n = 0; n < s.size(); ++n) {
                const std::string whole = cut(decode(all + s.substr(n)), stop);
                if (whole.compare(0, run.text.size(), run.text) != 0)
                    REQUIRE_EQ(run.text, "a beginning of " + whole);
            }
        }
    }
    run.finish();
    std::string every;
    for (const std::string& piece : pieces) every += piece;
    REQUIRE_EQ(run.text, cut(decode(every), stop));
    REQUIRE_EQ(run.stream.stopped(), run.text.size() < decode(every).size());
}

}  // namespace

TEST_CASE("text_stream: character over several tokens") {
    // It belongs to the last of its tokens, and none of them leaves before.
    REQUIRE_EQ(texts_of({}, {"a", "\xC3", "\xA9", "b"}), (Pieces{"a", "", "\xC3\xA9", "b"}));
    REQUIRE_EQ(released({}, {"a", "\xC3", "\xA9", "b"}), (Counts{1, 1, 3, 4}));
    REQUIRE_EQ(texts_of({}, {"\xF0", "\x9F", "\x98", "\x80"}), (Pieces{"", "", "", "\xF0\x9F\x98\x80"}));
    REQUIRE_EQ(released({}, {"\xF0", "\x9F", "\x98", "\x80"}), (Counts{0, 0, 0, 4}));
    REQUIRE_EQ(texts_of({}, {"\xF0\x9F", "\x98\x80!"}), (Pieces{"", "\xF0\x9F\x98\x80!"}));
    // With a control token inside.
    REQUIRE_EQ(texts_of({}, {"\xE2\x82", "", "\xAC"}), (Pieces{"", "", "\xE2\x82\xAC"}));
    REQUIRE_EQ(released({}, {"\xE2\x82", "", "\xAC"}), (Counts{0, 0, 3}));
}

TEST_CASE("text_stream: token completes one character and begins another") {
    const Pieces pieces = {"\xC3", "\xA9\xE2", "\x82\xAC\xF0\x9F", "\x98\x80"};
    REQUIRE_EQ(texts_of({}, pieces), (Pieces{"", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80"}));
    REQUIRE_EQ(released({}, pieces), (Counts{0, 1, 2, 4}));
}

TEST_CASE("text_stream: broken characters over tokens") {
    REQUIRE_EQ(texts_of({}, {"\xE2", "x"}), (Pieces{"", kReplacement + "x"}));
    REQUIRE_EQ(texts_of({}, {"\xE2", "\xE2", "\x82\xAC"}), (Pieces{"", kReplacement, "\xE2\x82\xAC"}));
    REQUIRE_EQ(released({}, {"\xE2", "\xE2", "\x82\xAC"}), (Counts{0, 1, 3}));
    REQUIRE_EQ(texts_of({}, {"\xED", "\xA0", "\x80"}),
               (Pieces{"", kReplacement + kReplacement, kReplacement}));  // a surrogate
}

TEST_CASE("text_stream: character cut short at the end") {
    REQUIRE_EQ(texts_of({}, {"ok", "\xF0\x9F", "\x98"}), (Pieces{"ok", "", kReplacement}));
    REQUIRE_EQ(texts_of({}, {"a\xE2"}), (Pieces{"a" + kReplacement}));
    REQUIRE_EQ(texts_of({}, {"a\xE2", "\x82"}), (Pieces{"a", kReplacement}));
    REQUIRE_EQ(texts_of({"stop"}, {"st\xE2"}), (Pieces{"st" + kReplacement}));
}

TEST_CASE("text_stream: nothing at all") {
    REQUIRE_EQ(texts_of({}, {}), Pieces{});
    REQUIRE_EQ(texts_of({"x"}, {""}), Pieces{""});
    REQUIRE_EQ(released({"x"}, {"", ""}), (Counts{1, 2}));
}

TEST_CASE("text_stream: stop in one token") {
    REQUIRE_EQ(texts_of({"STOP"}, {"hello STOP world"}), (Pieces{"hello "}));
    REQUIRE_EQ(texts_of({"STOP"}, {"STOP"}), (Pieces{""}));
    REQUIRE_EQ(texts_of({"\n"}, {"a", "b\n\nc", "d"}), (Pieces{"a", "b"}));
}

TEST_CASE("text_stream: stop over several tokens") {
    const Pieces pieces = {"x", "ya", "b", "cz", "never"};
    REQUIRE_EQ(texts_of({"abc"}, pieces), (Pieces{"x", "y", "", ""}));
    Run run({"abc"});
    run.push("x");
    REQUIRE_EQ(run.text, "x");
    run.push("ya");
    run.push("b");
    REQUIRE_EQ(run.text, "x");
    REQUIRE(!run.stream.stopped());
    run.push("cz");
    REQUIRE(run.stream.stopped());
    REQUIRE_EQ(run.text, "xy");
    run.finish();
    REQUIRE_EQ(run.text, "xy");
}

TEST_CASE("text_stream: beginning of a stop that is none") {
    REQUIRE_EQ(texts_of({"abc"}, {"a", "b", "d"}), (Pieces{"a", "b", "d"}));
    REQUIRE_EQ(released({"abc"}, {"a", "b", "d"}), (Counts{0, 0, 3}));
    // At the end of the text it is let go.
    REQUIRE_EQ(texts_of({"abc"}, {"xa", "b"}), (Pieces{"xa", "b"}));
}

TEST_CASE("text_stream: stop begins inside what is held") {
    // "aab" waits as "aa", and the second "a" is where the stop string begins.
    REQUIRE_EQ(texts_of({"aab"}, {"a", "a", "a", "b"}), (Pieces{"a", "", "", ""}));
    REQUIRE_EQ(released({"aab"}, {"a", "a", "a"}), (Counts{0, 0, 1}));
    REQUIRE_EQ(texts_of({"abab!"}, {"ab", "ab", "ab", "!"}), (Pieces{"ab", "", "", ""}));
    REQUIRE_EQ(texts_of({"abab!"}, {"ab", "ab", "ab", "?"}), (Pieces{"ab", "ab", "ab", "?"}));
    REQUIRE_EQ(texts_of({"abac"}, {"aba", "bac"}), (Pieces{"ab", ""}));
}

TEST_CASE("text_stream: earlier of two stops") {
    REQUIRE_EQ(texts_of({"cd", "bc"}, {"abcd"}), (Pieces{"a"}));
    REQUIRE_EQ(texts_of({"bc", "cd"}, {"a", "b", "c", "d"}), (Pieces{"a", "", ""}));
    REQUIRE_EQ(texts_of({"d", "bcd"}, {"abcd"}), (Pieces{"a"}));  // both end there
    REQUIRE_EQ(texts_of({"d", "bcd"}, {"a", "b", "c", "d"}), (Pieces{"a", "", "", ""}));
    REQUIRE_EQ(texts_of({"zzz", "b"}, {"abzzz"}), (Pieces{"a"}));
    REQUIRE_EQ(texts_of({"ab", "abc"}, {"xabc"}), (Pieces{"x"}));
    // The longest possible beginning is what waits, whichever stop string it is of.
    REQUIRE_EQ(released({"b", "xay"}, {"x", "a", "z"}), (Counts{0, 0, 3}));
    REQUIRE_EQ(released({"xay", "ab"}, {"x", "a", "z"}), (Counts{0, 0, 3}));
}

TEST_CASE("text_stream: stop inside another stop") {
    // "c" appears before "abcd" is complete, whatever the tokens are.
    REQUIRE_EQ(texts_of({"abcd", "c"}, {"a", "b", "c", "d"}), (Pieces{"a", "b", ""}));
    REQUIRE_EQ(texts_of({"abcd", "c"}, {"abc", "d"}), (Pieces{"ab"}));
    REQUIRE_EQ(texts_of({"abcd", "c"}, {"abcd"}), (Pieces{"ab"}));
    REQUIRE_EQ(texts_of({"c", "abcd"}, {"ab", "cd"}), (Pieces{"ab", ""}));
}

TEST_CASE("text_stream: stop of split characters") {
    const std::string euro = "\xE2\x82\xAC";
    REQUIRE_EQ(texts_of({euro}, {"a\xE2", "\x82",
                                 "\xAC"
                                 "b"}),
               (Pieces{"a", "", ""}));
    REQUIRE_EQ(texts_of({"b" + euro}, {"ab", "\xE2\x82", "\xAC"}), (Pieces{"a", "", ""}));
    // The same first bytes, another character.
    REQUIRE_EQ(texts_of({"b" + euro}, {"ab", "\xE2\x82", "\xAD"}), (Pieces{"ab", "", "\xE2\x82\xAD"}));
    // A stop string right behind a character that its token completes.
    REQUIRE_EQ(texts_of({"|"}, {"a\xE2", "\x82\xAC|\xF0"}), (Pieces{"a", euro}));
}

TEST_CASE("text_stream: random bytes without stop") {
    Random random(1);
    for (int round = 0; round < 300; ++round) {
        const std::string input = random_bytes(random, random.below(40));
        for (int way = 0; way < 3; ++way) check_stream({}, split(random, input));
    }
}

TEST_CASE("text_stream: random bytes with stops") {
    Random random(2);
    const std::vector<Pieces> stops = {{"ab"},
                                       {"aab"},
                                       {"aba", "bb"},
                                       {"abab", "ba" + encode(0x20AC)},
                                       {encode(0x1F600)},
                                       {"c", "aac", "bbb"},
                                       {"a" + encode(0xE9) + "b", "cc"}};
    for (int round = 0; round < 100; ++round) {
        const std::string input = random_bytes(random, random.below(30));
        for (const Pieces& stop : stops) check_stream(stop, split(random, input));
    }
}

TEST_CASE("text_stream: random letters with stops") {
    // Few letters, so that beginnings of stop strings are everywhere.
    Random random(3);
    const std::vector<Pieces> stops = {{"aabaab"}, {"ababb", "bbb"}, {"aaaa", "abba", "bab"}};
    for (int round = 0; round < 500; ++round) {
        std::string input;
        for (std::size_t n = random.below(16); n > 0; --n) input += random.chance(0.5) ? 'a' : 'b';
        for (const Pieces& stop : stops) check_stream(stop, split(random, input));
    }
}

TEST_CASE("text_stream: lets go of all that is certain") {
    // Nothing waits that is neither the beginning of a stop string nor of a character.
    Random random(4);
    for (int round = 0; round < 500; ++round) {
        Run run({"abb"});
        std::string all;
        std::vector<std::size_t> ends;
        for (int i = 0; i < 12 && !run.stream.stopped(); ++i) {
            std::string piece;
            for (std::size_t n = random.below(3); n > 0; --n) piece += random.chance(0.5) ? 'a' : 'b';
            run.push(piece);
            all += piece;
            ends.push_back(all.size());
            if (run.stream.stopped()) break;
            std::size_t certain = all.size();
            if (!all.empty() && all.back() == 'a') certain -= 1;
            if (all.size() >= 2 && all.compare(all.size() - 2, 2, "ab") == 0) certain -= 2;
            const auto n =
                std::count_if(ends.begin(), ends.end(), [&](std::size_t end) { return end <= certain; });
            REQUIRE_EQ(static_cast<std::size_t>(n), run.texts.size());
        }
    }
}

TEST_CASE("text_stream: keeps the steps as they came") {
    TextStream stream({"xyz"});
    colm::Step step;
    step.token = 41;
    step.expert = 1;
    step.defer_logit = 1.5;
    step.threshold = 0.25;
    step.logprob = -0.125;
    step.top_logprobs = {{41, -0.125}, {7, -3.0}};
    stream.push(step, "x");
    REQUIRE(stream.empty());
    stream.finish();
    const colm::Step out = stream.pop().step;
    REQUIRE_EQ(out.token, 41);
    REQUIRE(out.expert == 1);
    REQUIRE_EQ(out.defer_logit, 1.5);
    REQUIRE_EQ(out.threshold, 0.25);
    REQUIRE_EQ(out.logprob, -0.125);
    REQUIRE_EQ(out.top_logprobs.size(), 2);
    REQUIRE_EQ(out.top_logprobs[1].token, 7);
}

TEST_CASE("text_stream: refuses an empty stop") {
    REQUIRE_THROWS_WITH_AS(TextStream({"a", ""}), doctest::Contains("stop string is empty"),
                           colm::OptionError);
}
