#include "colm/grammar.h"

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "check.h"
#include "colm/error.h"
#include "colm/grammar_matcher.h"

namespace {

using colm::Grammar;
using colm::GrammarError;
using colm::GrammarMatcher;
using colm::Token;

constexpr Token kThink = 3;

GrammarMatcher matcher(const std::string& gbnf) {
    const auto find = [](const std::string& text) { return text == "<think>" ? kThink : colm::kNoToken; };
    return GrammarMatcher(std::make_shared<const Grammar>(Grammar::parse(gbnf, find, 10)));
}

// Byte by byte, as the hardest way to cut a text into tokens.
bool begins(GrammarMatcher& matcher, std::string_view text) {
    for (std::size_t i = 0; i < text.size(); ++i) {
        matcher.begin_step();
        const bool allowed = matcher.allows(colm::kNoToken, text.substr(i, 1));
        REQUIRE_EQ(matcher.accept(colm::kNoToken, text.substr(i, 1)), allowed);
        if (!allowed) return false;
    }
    return true;
}

bool accepts(const std::string& gbnf, std::string_view text) {
    GrammarMatcher m = matcher(gbnf);
    return begins(m, text) && m.may_end();
}

std::string refusal(const std::string& gbnf) {
    try {
        matcher(gbnf);
    } catch (const GrammarError& error) {
        return error.what();
    }
    return "";
}

std::string repeated(const std::string& text, std::size_t n) {
    std::string all;
    for (std::size_t i = 0; i < n; ++i) all += text;
    return all;
}

}  // namespace

TEST_CASE("grammar: reads every construct") {
    const std::string gbnf =
        "# a comment\nroot ::= item (\", \" item){0,2} # another\n"
        "item ::= [a-c]+ | \"\\x41\\u00e9\\\"\" | [^\\]a-z-]? |\n  . \"!\"";
    for (const char* text : {"abc", "A\xC3\xA9\"", "a, b, c", "Q", "", "z!", "\xF0\x9F\x98\x80!, -!"})
        REQUIRE(accepts(gbnf, text));
    for (const char* text : {"a, b, c, a", "d", "-", "AA", "z", "]", "a,b"}) REQUIRE(!accepts(gbnf, text));
}

TEST_CASE("grammar: counts repetitions") {
    for (std::size_t n = 0; n < 8; ++n) {
        const std::string text = repeated("ab", n);
        REQUIRE_EQ(accepts("root ::= \"ab\"{2,5}", text), n >= 2 && n <= 5);
        REQUIRE_EQ(accepts("root ::= \"ab\"{3}", text), n == 3);
        REQUIRE_EQ(accepts("root ::= (\"a\" \"b\"){4,}", text), n >= 4);
        REQUIRE_EQ(accepts("root ::= \"ab\"{0,0}", text), n == 0);
        REQUIRE(accepts("root ::= ((\"ab\"?)*)*", text));
    }
}

TEST_CASE("grammar: follows all ways at once") {
    // 2^30 ways to begin, and 2^300.
    std::string chain = "root ::= r0\n";
    for (int i = 0; i < 30; ++i) {
        const std::string next = "r" + std::to_string(i + 1);
        chain += "r" + std::to_string(i) + " ::= " + next + " \"a\" | " + next + " \"b\"\n";
    }
    chain += "r30 ::= \"a\"";
    REQUIRE(accepts(chain, "a" + repeated("ab", 15)));
    REQUIRE(!accepts(chain, "a" + repeated("ab", 16)));
    std::string optional = "root ::=";
    for (int i = 0; i < 300; ++i) optional += " \"a\"?";
    REQUIRE(accepts(optional, repeated("a", 300)));
    REQUIRE(!accepts(optional, repeated("a", 301)));
    REQUIRE(accepts("root ::= (\"a\"? ){0,50}", ""));
    REQUIRE(accepts("root ::= ((\"a\"?){0,50}){0,50}", repeated("a", 2500)));
    REQUIRE(!accepts("root ::= ((\"a\"?){0,50}){0,50}", repeated("a", 2501)));
    for (std::size_t n = 1; n < 40; ++n)
        REQUIRE_EQ(accepts("root ::= \"a\" root root | \"a\"", repeated("a", n)), n % 2 == 1);
}

TEST_CASE("grammar: finds the few that fit among many") {
    std::string gbnf = "root ::= [^q-z] \"!\" | [\\u3040-\\u309F]";
    for (int i = 0; i < 2000; ++i) gbnf += " | \"value " + std::to_string(i) + ".\"";
    for (const char* text : {"value 0.", "value 1999.", "v!", "p!", "\xE3\x81\x82"})
        REQUIRE_EQ(accepts(gbnf, text), std::string(text) != "v!");
    for (const char* text : {"value 2000.", "value 1.5", "value ", "q!", "\xE3\x82\xA2"})
        REQUIRE(!accepts(gbnf, text));
}

TEST_CASE("grammar: that is too ambiguous is refused") {
    // At the beginning each of many rules may be one of many alternatives.
    std::string gbnf = "root ::=";
    for (int i = 0; i < 2500; ++i) gbnf += " any?";
    gbnf += " \"x\"\nany ::= \"a\" \"b\"";
    for (int i = 0; i < 2500; ++i) gbnf += " | \"a\" \"b\"";
    try {
        matcher(gbnf);
        FAIL("not refused");
    } catch (const GrammarError& error) {
        REQUIRE_EQ(std::string(error.kind()), "GrammarError");
        REQUIRE_EQ(error.fields().at(1).first, "limit");
        REQUIRE_EQ(std::get<std::int64_t>(error.fields().at(1).second), GrammarMatcher::kMostWork);
    }
    // Places to remember may also become too many while a text grows; the bound is between tokens then.
    GrammarMatcher m = matcher("root ::= \"a\" | \"a\" root | \"a\" root root | \"a\" root root root");
    REQUIRE(begins(m, repeated("a", 100)));
    REQUIRE(m.may_end());
}

TEST_CASE("grammar: forgets what it needs no more") {
    // Each depth is remembered while it is new; what is beyond the limit is let go, and the text goes on.
    GrammarMatcher m = matcher("root ::= \"(\" root \")\" | [a-z]{0,100000}");
    REQUIRE(begins(m, repeated("(", 20) + repeated("abcdefghij", 4000)));
    GrammarMatcher copy = m;
    REQUIRE(begins(m, repeated(")", 20)));
    REQUIRE(m.may_end());
    REQUIRE(!copy.may_end());
    REQUIRE(begins(copy, "a)"));
}

TEST_CASE("grammar: reads tokens by id") {
    const std::string gbnf = "root ::= <think> !<[5]> <[7]>? \"x\"";
    GrammarMatcher m = matcher(gbnf);
    REQUIRE(!m.allows(4, ""));
    REQUIRE(!m.allows(4, "<think>"));  // the token, not its text
    REQUIRE(m.accept(kThink, ""));
    REQUIRE(!m.allows(5, "a"));
    REQUIRE(!m.accept(5, "a"));
    REQUIRE(m.accept(6, "anything"));
    GrammarMatcher copy = m;
    REQUIRE(m.accept(7, ""));
    REQUIRE(m.accept(1, "x"));
    REQUIRE(m.may_end());
    REQUIRE(copy.accept(1, "x"));
    REQUIRE(copy.may_end());
    REQUIRE(refusal("root ::= <[10]>").find("9") != std::string::npos);
    REQUIRE(refusal("root ::= <unknown>").find("<unknown>") != std::string::npos);
}

TEST_CASE("grammar: token may be meant by id and by text") {
    const std::string gbnf = "root ::= \"x\" \"1\" | <[2]> \"2\"";
    for (const char* end : {"1", "2"}) {
        GrammarMatcher m = matcher(gbnf);
        REQUIRE(m.accept(2, "x"));
        REQUIRE(m.accept(colm::kNoToken, end));
        REQUIRE(m.may_end());
    }
    GrammarMatcher m = matcher(gbnf);
    REQUIRE(m.accept(4, "x"));
    REQUIRE(!m.allows(colm::kNoToken, "2"));
}

TEST_CASE("grammar: holds texts to utf8") {
    const std::string any = "root ::= .*";
    for (const char* text : {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xED\xA0\x80",
                             "\xF4\x90\x80\x80", "\xF5", "a\xC3("})
        REQUIRE(!accepts(any, text));
    for (const char* text :
         {"\x7F", "\xC2\x80", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80", "\xF4\x8F\xBF\xBF"})
        REQUIRE(accepts(any, text));
    REQUIRE(!accepts(any, std::string_view("\0", 1)));
    // Only the beginnings of characters that fit may be written.
    GrammarMatcher m = matcher("root ::= [\\u3040-\\u309F]");
    REQUIRE(!m.allows(colm::kNoToken, "\xE4"));
    REQUIRE(!m.allows(colm::kNoToken, "\xE3\x83"));
    REQUIRE(m.accept(colm::kNoToken, "\xE3"));
    REQUIRE(!m.may_end());
    REQUIRE(!m.allows(colm::kNoToken, "\x83"));
    REQUIRE(m.accept(colm::kNoToken, "\x81"));
    REQUIRE(m.accept(colm::kNoToken, "\x82"));
    REQUIRE(m.may_end());
    // Beginnings of forms that are longer than need be, of surrogates and of what lies beyond the last
    // character.
    for (const auto& bytes : {std::pair("\xE0", "\x9F"), std::pair("\xF0", "\x8F"), std::pair("\xED", "\xA0"),
                              std::pair("\xF4", "\x90")}) {
        GrammarMatcher begun = matcher(any);
        REQUIRE(begun.accept(colm::kNoToken, bytes.first));
        REQUIRE(!begun.allows(colm::kNoToken, bytes.second));
    }
    // `[^a]` may be any character of two bytes.
    REQUIRE(matcher("root ::= [^a]").allows(colm::kNoToken, "\xC3"));
}

TEST_CASE("grammar: says where it is wrong") {
    const std::vector<std::pair<const char*, const char*>> cases = {
        {"root ::= \"a", "closing \""},
        {"root ::= (\"a\"", "closing )"},
        {"root ::= [a", "closing ]"},
        {"root ::= []", "one character"},
        {"root ::= *", "repeat"},
        {"root ::= \"a\"{2,1}", "{2,1}"},
        {"root = \"a\"", "::="},
        {"other ::= \"a\"", "root"},
        {"root ::= other", "other"},
        {"root ::= \"\\q\"", "escape"},
        {"root ::= \"\\u12\"", "4 hex"},
        {"root ::= \"a\"{200000}", "100000"},
        {"root ::= \"\\U00110000\"", "10FFFF"},
        {"root ::= \"\xFF\"", "UTF-8"},
        {"root ::= 'a'", "'a'"},
        {"a ::= \"x\"\nroot ::= a )", "line 2, column 12"}};
    for (const auto& [gbnf, part] : cases) {
        const std::string message = refusal(gbnf);
        if (message.find(part) == std::string::npos) REQUIRE_EQ(message, part);
    }
    for (const char* gbnf : {"root ::= root \"a\" | \"b\"", "root ::= a\na ::= b\nb ::= a \"x\"",
                             "root ::= empty root \"x\" | \"b\"\nempty ::= nothing\nnothing ::= \"\"",
                             "root ::= (\"a\"? root) \"b\""})
        REQUIRE(refusal(gbnf).find("left recursion") != std::string::npos);
    // A rule that ends by calling itself is none.
    REQUIRE_EQ(refusal("root ::= root | \"a\""), "");
    REQUIRE_EQ(refusal("root ::= \"\"*"), "");
}

TEST_CASE("grammar: is bounded before it is built") {
    REQUIRE(refusal("root ::= " + std::string(1000, '(') + "\"a\"" + std::string(1000, ')')).find("500") !=
            std::string::npos);
    std::string many = "root ::= \"a\"\n";
    for (int i = 0; i < 60'000; ++i) many += "r" + std::to_string(i) + " ::= \"a\"\n";
    REQUIRE(refusal(many).find("50000") != std::string::npos);
    REQUIRE(refusal("root ::= " + repeated("\"a\"{0,100000} ", 5)).find("1000000") != std::string::npos);
    REQUIRE(refusal(std::string(std::size_t{1} << 23, ' ')).find("4194304") != std::string::npos);
    REQUIRE(accepts("root ::= [a-z]{0,100000}", "abc"));
}
