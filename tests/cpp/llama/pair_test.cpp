#include "llama/pair.h"

#include <string>
#include <vector>

#include "check.h"
#include "demo.h"

namespace {

const std::string kEggs =
    "Tom brings 5 crates of 143 eggs to the farm and sells 266 eggs. How many eggs are left?";
const std::string kCandles =
    "The workshop had 4 drawers with 102 candles in each drawer. Then 155 candles were sold. How many "
    "candles remain?";
const std::string kPosters =
    "The printers of the print shop want to collect 714 posters. They have 272 from Victor and 235 from "
    "Omar. How many are missing?";
// What docs/start.md shows.
const std::string kEggsSolved = " At first: 143 * 5 = 715. After the sale: 715 - 266 = 449. Answer: 449";

bool ends_with(const std::string& text, const std::string& end) {
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

}  // namespace

TEST_CASE("pair: the demo pair writes what the documentation shows") {
    const auto pair = load_demo();
    auto options = greedy();
    REQUIRE_EQ(solve(*pair, {kEggs}, options).front(), kEggsSolved);
    options.policy.threshold = 1.0;
    REQUIRE_EQ(solve(*pair, {kEggs}, options).front(),
               " At first: 143 * 5 = 715. After the sale: 715 - 266 = 429. Answer: 429");
}

TEST_CASE("pair: look-ahead and company change no text") {
    const auto pair = load_demo();
    auto options = greedy();
    const std::vector<std::string> problems = {kEggs, kCandles, kPosters};
    std::vector<std::string> alone;
    for (const std::string& problem : problems) alone.push_back(solve(*pair, {problem}, options).front());
    REQUIRE(ends_with(alone[0], "Answer: 449"));
    REQUIRE(ends_with(alone[1], "Answer: 253"));
    REQUIRE(ends_with(alone[2], "Answer: 207"));
    REQUIRE(solve(*pair, problems, options) == alone);
    options.lookahead = 4;
    REQUIRE(solve(*pair, problems, options) == alone);
}

TEST_CASE("pair: a grammar is kept to") {
    const auto pair = load_demo();
    auto options = greedy();
    options.sampling.grammar = "root ::= \" \" [0-9]+ \" eggs\"";
    const std::string text = solve(*pair, {kEggs}, options).front();
    REQUIRE(ends_with(text, " eggs"));
    REQUIRE_EQ(text.find_first_not_of("0123456789", 1), text.size() - 5);
}

TEST_CASE("pair: what one pair has read another knows") {
    const auto first = load_demo();
    const auto options = greedy();
    const std::string wanted = solve(*first, {kEggs}, options).front();
    const auto known = first->known_texts();
    REQUIRE(!known.empty());
    const auto second = load_demo();
    second->know_texts(known);
    REQUIRE_EQ(second->known_texts().size(), known.size());
    REQUIRE_EQ(solve(*second, {kEggs}, options).front(), wanted);
}

TEST_CASE("pair: a long text is tokenized on a large stack") {
    const auto pair = load_demo();
    std::string text;
    for (int i = 0; i < 20000; ++i) text += i % 7 == 0 ? "é" : "word ";
    const auto tokens = pair->tokenize(text, false, false);
    REQUIRE(tokens.size() > 20000);
    REQUIRE_EQ(pair->detokenize(tokens, false), text);
    // One word without end.
    const std::string word(100000, 'a');
    REQUIRE_EQ(pair->detokenize(pair->tokenize(word, false, false), false), word);
}
