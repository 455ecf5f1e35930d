// The tokens that models of unlike vocabularies have of one text.
#include "colm/shared_text.h"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "check.h"

using colm::ExpertId;
using colm::SharedText;
using colm::Token;

namespace {

// The longest of its texts that fits, from left to right; other bytes are tokens of their own, from 1000 on.
class Greedy final : public colm::Tokenizer {
  public:
    explicit Greedy(std::vector<std::string> texts) : texts_(std::move(texts)) {
        for (const std::string& text : texts_) word_ends_.add_piece(text);
    }

    std::string piece(Token token) const override {
        if (token >= 1000) return std::string(1, static_cast<char>(token - 1000));
        return texts_[static_cast<std::size_t>(token)];
    }
    std::vector<Token> encode(const std::string& text) const override {
        longest = std::max(longest, text.size());
        std::vector<Token> tokens;
        for (std::size_t at = 0; at < text.size();) {
            Token best = 1000 + static_cast<unsigned char>(text[at]);
            for (std::size_t i = 0; i < texts_.size(); ++i)
                if (!texts_[i].empty() && text.compare(at, texts_[i].size(), texts_[i]) == 0 &&
                    texts_[i].size() >= piece(best).size())
                    best = static_cast<Token>(i);
            at += piece(best).size();
            tokens.push_back(best);
        }
        return tokens;
    }

    const colm::WordEnds& word_ends() const override { return word_ends_; }

    mutable std::size_t longest = 0;  // text that was encoded

  private:
    std::vector<std::string> texts_;
    colm::WordEnds word_ends_;
};

constexpr ExpertId kFirst = 0, kSecond = 1;

struct TwoTokenizers {
    std::shared_ptr<Greedy> first = std::make_shared<Greedy>(
        std::vector<std::string>{"", "hel", "lo", " wor", "ld", "\xE6\x97", "\xA5", "a", "\xFF"});
    std::shared_ptr<Greedy> second = std::make_shared<Greedy>(
        std::vector<std::string>{"", "hello", "he", "l", "lo", " world", "\xE6\x97\xA5", "aa"});
    SharedText text{{{first, {1}}, {second, {7, 7}}}};

    std::vector<Token> written(ExpertId expert) const {
        const auto view = text.written(expert);
        return {view.begin(), view.end()};
    }
};

using Tokens = std::vector<Token>;

}  // namespace

TEST_CASE("shared text: others encode the last word again, and what they had read of it counts") {
    TwoTokenizers w;
    w.text.add(1, kFirst);
    REQUIRE_EQ(w.written(kSecond), (Tokens{2, 3}));
    w.text.asked(kSecond);
    w.text.add(2, kFirst);
    REQUIRE_EQ(w.written(kFirst), (Tokens{1, 2}));
    REQUIRE_EQ(w.written(kSecond), (Tokens{1}));
    REQUIRE_EQ(w.text.n_reread(kSecond), 2);
    REQUIRE_EQ(w.text.tokens(kSecond), (Tokens{7, 7, 1}));
    w.text.asked(kSecond);
    w.text.add(3, kFirst);
    w.text.add(4, kFirst);
    REQUIRE_EQ(w.written(kSecond), (Tokens{1, 5}));
    REQUIRE_EQ(w.text.n_reread(kSecond), 2);
    // What the second wrote stays its own, though it would encode it otherwise.
    w.text.add(2, kSecond);
    w.text.add(3, kSecond);
    w.text.add(3, kFirst);
    REQUIRE_EQ(w.written(kSecond), (Tokens{1, 5, 2, 3, 1000 + ' ', 1000 + 'w', 1000 + 'o', 1000 + 'r'}));
    REQUIRE_EQ(w.text.longest(), 10);
}

TEST_CASE("shared text: no word ends where a token of the reader has the white space, too") {
    const auto first = std::make_shared<Greedy>(std::vector<std::string>{".", "\n", "a", " b"});
    const auto second = std::make_shared<Greedy>(std::vector<std::string>{"a", ".", ".\n", "\n", " b"});
    SharedText text({{first, {}}, {second, {}}});
    text.add(2, kFirst);
    REQUIRE(text.may_take_over(kSecond, 1));  // "a|\n": no token has both
    text.add(0, kFirst);
    REQUIRE_EQ(text.tokens(kSecond), (Tokens{0, 1}));
    REQUIRE(!text.may_take_over(kSecond, 1));  // ".|\n"
    REQUIRE(text.may_take_over(kSecond, 3));
    text.add(1, kFirst);
    REQUIRE_EQ(text.tokens(kSecond), (Tokens{0, 2}));
    text.add(3, kFirst);
    REQUIRE_EQ(text.tokens(kSecond), (Tokens{0, 2, 4}));
}

TEST_CASE("shared text: a text is handed over where the writer's next token begins a token of the other") {
    TwoTokenizers w;
    REQUIRE(w.text.may_take_over(kSecond, 2));  // nothing was written
    w.text.add(1, kFirst);
    REQUIRE(w.text.may_take_over(kFirst, 2));
    REQUIRE(!w.text.may_take_over(kSecond, 2));  // "hel|lo" is "hello"
    REQUIRE(w.text.may_take_over(kSecond, 7));   // "hel|a"
    REQUIRE(w.text.may_take_over(kSecond, 3));   // "hel| wor"
    REQUIRE(w.text.may_take_over(kSecond, colm::kNoToken));
    REQUIRE(w.text.may_take_over(kSecond, 0));  // a token that writes nothing
    REQUIRE(w.text.may_take_over(kSecond, 5));  // a character that is not complete
}

TEST_CASE("shared text: never inside a character, and what is none is U+FFFD for others") {
    TwoTokenizers w;
    w.text.add(5, kFirst);
    REQUIRE(!w.text.may_take_over(kSecond, 6));
    REQUIRE(w.written(kSecond).empty());
    w.text.add(6, kFirst);
    REQUIRE_EQ(w.written(kSecond), (Tokens{6}));
    REQUIRE(w.text.may_take_over(kSecond, 1));
    w.text.add(5, kFirst);
    w.text.add(7, kFirst);
    REQUIRE_EQ(w.written(kSecond), (Tokens{6, 1000 + 0xEF, 1000 + 0xBF, 1000 + 0xBD, 1000 + 'a'}));
    REQUIRE_EQ(w.written(kFirst), (Tokens{5, 6, 5, 7}));
    w.text.add(8, kFirst);
    REQUIRE_EQ(w.written(kSecond).size(), 8);
}

TEST_CASE("shared text: a token of its own that writes nothing stays") {
    TwoTokenizers w;
    w.text.add(0, kSecond);
    w.text.add(1, kFirst);
    REQUIRE_EQ(w.written(kSecond), (Tokens{0, 2, 3}));
    REQUIRE_EQ(w.written(kFirst), (Tokens{1}));
    w.text.add(2, kFirst);
    REQUIRE_EQ(w.written(kSecond), (Tokens{0, 1}));
}

TEST_CASE("shared text: the work for a token is bounded where no word begins") {
    TwoTokenizers w;
    for (int i = 0; i < 2000; ++i) w.text.add(7, kFirst);
    REQUIRE_EQ(w.written(kSecond).size(), 1000);
    REQUIRE(w.second->longest <= 2 * SharedText::kMostEncoded + 2);
    w.second->longest = 0;
    REQUIRE(w.text.may_take_over(kSecond, 1));
    REQUIRE(w.second->longest <= 2 * SharedText::kMostEncoded + 5);
}

TEST_CASE("shared text: experts of one vocabulary have each other's tokens") {
    auto one = std::make_shared<Greedy>(std::vector<std::string>{"he", "llo", "hello"});
    SharedText text({{one, {1}}, {one, {}}});
    text.add(0, kFirst);
    text.add(1, kFirst);
    REQUIRE(text.may_take_over(kSecond, 1));
    REQUIRE_EQ(text.tokens(kSecond), (Tokens{0, 1}));
    REQUIRE_EQ(text.n_reread(kSecond), 0);
}

TEST_CASE("shared text: what a token of one would be to another, behind what it has") {
    TwoTokenizers w;
    w.text.add(1, kFirst);
    // "hel" and "lo" become another token of the second, so "lo" is taken alone.
    REQUIRE_EQ(w.text.as_tokens_of(kSecond, 2, kFirst), (Tokens{4}));
    REQUIRE_EQ(w.text.as_tokens_of(kSecond, 3, kFirst),
               (Tokens{1000 + ' ', 1000 + 'w', 1000 + 'o', 1000 + 'r'}));
    REQUIRE_EQ(w.text.as_tokens_of(kFirst, 2, kFirst), (Tokens{2}));
    // Control tokens and halves of characters stand for nothing.
    REQUIRE_EQ(w.text.as_tokens_of(kSecond, 0, kFirst), Tokens{});
    REQUIRE_EQ(w.text.as_tokens_of(kSecond, 5, kFirst), Tokens{});
    w.text.add(5, kFirst);
    REQUIRE_EQ(w.text.as_tokens_of(kSecond, 6, kFirst), (Tokens{6}));
}

TEST_CASE("shared text: what was asked about in a draft, and is not in the text, was read for nothing") {
    TwoTokenizers w;
    w.text.add(1, kFirst);  // the second has 7 7 2 3
    w.text.drafted(kSecond, {7, 7, 2, 3}, 3);
    REQUIRE_EQ(w.text.n_reread(kSecond), 0);
    w.text.drafted(kSecond, {7, 7, 2, 8, 9}, 2);
    REQUIRE_EQ(w.text.n_reread(kSecond), 2);
    w.text.drafted(kSecond, {7, 7, 2, 8, 9}, 4);  // answers up to there counted when they came
    REQUIRE_EQ(w.text.n_reread(kSecond), 3);
    w.text.drafted(kSecond, {7, 7, 2, 3, 4, 4}, 0);
    REQUIRE_EQ(w.text.n_reread(kSecond), 5);
}
