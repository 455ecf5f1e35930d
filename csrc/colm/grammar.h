// A GBNF grammar, compiled. What may follow a text is GrammarMatcher's (grammar_matcher.h).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "colm/types.h"

namespace colm {

// The language is llama.cpp's: rules of literals, classes, `.`, groups, `|`, `* + ? {m,n}`, `<token>`,
// `<[id]>` and their `!`, comments; texts begin at the rule `root`. Repetition is unrolled into rules, as
// there.
struct Grammar {
    enum class Kind : std::uint8_t { end, rule, chars, token, not_token };
    struct Symbol {
        Kind kind;
        std::uint32_t value;  // of a rule, a set of characters, a token
    };
    using Range = std::pair<char32_t, char32_t>;  // both ends belong to it
    struct Rule {
        std::vector<std::uint32_t> alternatives;  // where each begins in `code`
        // A rule ranks above those that it calls before it has read anything.
        std::uint32_t rank = 0;
    };

    // The id of a token that is written `<text>`; kNoToken where the vocabulary has no such token.
    using FindToken = std::function<Token(const std::string& text)>;

    // Throws GrammarError for what is no GBNF, for left recursion, and for grammars beyond the limits below.
    static Grammar parse(const std::string& gbnf, const FindToken& find_token, std::size_t n_tokens);

    static constexpr std::size_t kMostBytes = std::size_t{1} << 22;
    static constexpr std::size_t kMostRules = 50'000;  // as written; repetition makes more
    static constexpr std::size_t kMostDepth = 500;     // of groups in groups
    static constexpr std::size_t kMostRepeats = 100'000;
    static constexpr std::size_t kMostSymbols = 1'000'000;

    static constexpr char32_t kLastChar = 0x10FFFF;

    // Whether it means tokens by their ids.
    bool names_tokens() const;

    // A set of these characters, or of all others.
    static std::vector<Range> set_of(std::vector<Range> ranges, bool inverse);

    // Whether some set holds the character, and where it does, which characters the sets cannot tell from it.
    std::uint32_t char_class(char32_t c) const;
    bool has(std::uint32_t set, char32_t c) const;
    bool meets(std::uint32_t set, char32_t low, char32_t high) const;

    // Symbols of all alternatives, each closed by `end`. The first is an `end`: the place behind all of them.
    std::vector<Symbol> code;
    std::vector<Rule> rules;
    std::uint32_t root = 0;
    // Sorted, apart, without U+0000 and surrogates, which no text holds.
    std::vector<std::vector<Range>> sets;
    std::vector<char32_t> class_starts;  // ascending, from 0
};

}  // namespace colm
