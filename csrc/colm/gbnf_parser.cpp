#include "colm/gbnf_parser.h"

#include <algorithm>
#include <limits>
#include <unordered_map>
#include <utility>

#include "colm/error.h"

namespace colm {
namespace {

using Kind = Grammar::Kind;
using Symbol = Grammar::Symbol;
using Range = Grammar::Range;
using Symbols = ParsedGrammar::Sequence;
using Alternatives = ParsedGrammar::Alternatives;

constexpr std::uint32_t kUnlimited = std::numeric_limits<std::uint32_t>::max();
constexpr std::size_t kMostShown = 60;

[[noreturn]] void refuse(const std::string& what, std::size_t value, std::size_t limit, const char* advice) {
    throw GrammarError(
        "the grammar " + what + "; at most " + std::to_string(limit) + " can be used; " + advice,
        {{"value", static_cast<std::int64_t>(value)}, {"limit", static_cast<std::int64_t>(limit)}});
}

class Parser {
  public:
    Parser(const std::string& text, const Grammar::FindToken& find_token, std::size_t n_tokens)
        : text_(text), find_token_(find_token), n_tokens_(n_tokens) {}

    void parse() {
        space(true);
        while (at_ < text_.size()) rule();
        for (std::size_t id = 0; id < defined_.size(); ++id)
            if (!defined_[id])
                throw GrammarError("the grammar names the rule \"" + names_[id] +
                                   "\" and does not define it");
        if (ids_.find("root") == ids_.end())
            throw GrammarError("the grammar has no rule named root, where texts begin");
    }

    ParsedGrammar take() {
        return {std::move(bodies_), std::move(names_), std::move(set_ids_), ids_.at("root")};
    }

  private:
    [[noreturn]] void fail(const std::string& expected) const {
        const std::string before = text_.substr(0, at_);
        const auto line = std::count(before.begin(), before.end(), '\n') + 1;
        const std::size_t line_start = before.rfind('\n') + 1;
        std::string found = text_.substr(at_, std::min(text_.find('\n', at_), at_ + kMostShown) - at_);
        found = at_ >= text_.size() ? "the end" : found.empty() ? "the end of the line" : "`" + found + "`";
        throw GrammarError("the grammar cannot be parsed: line " + std::to_string(line) + ", column " +
                           std::to_string(at_ - line_start + 1) + ": expecting " + expected + ", found " +
                           found);
    }

    char peek(std::size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0'; }

    void space(bool newlines) {
        for (;; ++at_) {
            const char c = peek();
            if (c == '#') {
                while (at_ < text_.size() && peek() != '\n' && peek() != '\r') ++at_;
                --at_;
            } else if (c != ' ' && c != '\t' && !(newlines && (c == '\n' || c == '\r'))) {
                return;
            }
        }
    }

    static bool is_digit(char c) { return c >= '0' && c <= '9'; }
    static bool is_word(char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || is_digit(c);
    }

    std::string word() {
        const std::size_t start = at_;
        while (is_word(peek())) ++at_;
        if (at_ == start) fail("a name of letters, digits and -");
        return text_.substr(start, at_ - start);
    }

    // Numbers too large for anything are as good as the largest.
    std::uint64_t number() {
        if (!is_digit(peek())) fail("a number");
        std::uint64_t value = 0;
        for (; is_digit(peek()); ++at_)
            value =
                std::min<std::uint64_t>(value * 10 + static_cast<std::uint64_t>(peek() - '0'), 1ULL << 40);
        return value;
    }

    std::uint32_t hex(std::size_t n_digits) {
        std::uint32_t value = 0;
        for (std::size_t i = 0; i < n_digits; ++i, ++at_) {
            const char c = peek();
            const int digit = is_digit(c)            ? c - '0'
                              : c >= 'a' && c <= 'f' ? c - 'a' + 10
                              : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                     : -1;
            if (digit < 0) fail(std::to_string(n_digits) + " hexadecimal digits");
            value = value << 4 | static_cast<std::uint32_t>(digit);
        }
        return value;
    }

    char32_t character() {
        if (at_ >= text_.size()) fail("a character");
        if (peek() != '\\') return utf8();
        ++at_;
        const char c = peek();
        const std::size_t n_digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
        const bool known = c != '\0' && std::string("tnr\\\"[]-").find(c) != std::string::npos;
        if (n_digits == 0 && !known) fail("an escape: one of \\t \\n \\r \\\\ \\\" \\[ \\] \\- \\x \\u \\U");
        ++at_;
        if (n_digits != 0) {
            const char32_t value = hex(n_digits);
            if (value > Grammar::kLastChar) fail("a character up to U+10FFFF before this");
            return value;
        }
        return c == 't' ? U'\t' : c == 'n' ? U'\n' : c == 'r' ? U'\r' : static_cast<char32_t>(c);
    }

    char32_t utf8() {
        const auto lead = static_cast<unsigned char>(peek());
        const std::size_t length = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
        char32_t value = length == 1 ? lead : lead & (0xFFU >> (length + 1));
        for (std::size_t i = 1; i < length; ++i) {
            const auto next = static_cast<unsigned char>(peek(i));
            if ((next & 0xC0) != 0x80) fail("UTF-8");
            value = value << 6 | (next & 0x3FU);
        }
        at_ += length;
        return value;
    }

    std::uint32_t named(const std::string& name) {
        const auto [found, is_new] = ids_.emplace(name, static_cast<std::uint32_t>(bodies_.size()));
        if (is_new) {
            if (ids_.size() > Grammar::kMostRules)
                refuse("has more than " + std::to_string(Grammar::kMostRules) + " rules", ids_.size(),
                       Grammar::kMostRules, "merge some of them");
            bodies_.emplace_back();
            names_.push_back(name);
            defined_.push_back(false);
        }
        return found->second;
    }

    std::uint32_t unnamed(Alternatives body) {
        count(1);
        bodies_.push_back(std::move(body));
        names_.push_back(current_);
        defined_.push_back(true);
        return static_cast<std::uint32_t>(bodies_.size() - 1);
    }

    // Every symbol that is kept is counted, so that short texts cannot unroll into huge grammars.
    void count(std::size_t n) {
        n_symbols_ += n;
        if (n_symbols_ > Grammar::kMostSymbols)
            refuse(
                "has more than " + std::to_string(Grammar::kMostSymbols) + " symbols, repetitions unrolled",
                n_symbols_, Grammar::kMostSymbols, "repeat less");
    }

    Symbol set(std::vector<Range> ranges, bool inverse) {
        const auto next = static_cast<std::uint32_t>(set_ids_.size());
        return {Kind::chars,
                set_ids_.emplace(Grammar::set_of(std::move(ranges), inverse), next).first->second};
    }

    void rule() {
        current_ = word();
        const std::uint32_t id = named(current_);
        space(false);
        if (text_.compare(at_, 3, "::=") != 0) fail("::=");
        at_ += 3;
        space(true);
        bodies_[id] = alternatives(false);
        defined_[id] = true;
        if (at_ < text_.size() && peek() != '\n' && peek() != '\r') fail("a new line or the end");
        space(true);
    }

    Alternatives alternatives(bool nested) {
        Alternatives all{sequence(nested)};
        while (peek() == '|') {
            ++at_;
            space(true);
            all.push_back(sequence(nested));
        }
        count(all.size());
        return all;
    }

    Symbols sequence(bool nested) {
        Symbols all;
        Symbols item;  // what a repetition would repeat
        bool any = false;
        const auto next = [&] {
            all.insert(all.end(), item.begin(), item.end());
            item.clear();
            any = true;
        };
        for (;;) {
            const char c = peek();
            if (at_ >= text_.size()) break;
            if (c == '"') {
                next();
                ++at_;
                while (peek() != '"') {
                    if (at_ >= text_.size()) fail("the closing \"");
                    const char32_t value = character();
                    item.push_back(set({{value, value}}, false));
                    count(1);
                }
                ++at_;
            } else if (c == '[') {
                next();
                item.push_back(char_class());
            } else if (c == '.') {
                next();
                ++at_;
                item.push_back(set({{0, Grammar::kLastChar}}, false));
            } else if (c == '<' || c == '!') {
                next();
                item.push_back(token());
            } else if (c == '(') {
                next();
                item.push_back(group());
            } else if (is_word(c)) {
                next();
                item.push_back({Kind::rule, named(word())});
            } else if (c == '*' || c == '+' || c == '?' || c == '{') {
                if (!any) fail("something to repeat before this");
                repetition(item, nested);
            } else {
                break;
            }
            count(1);
            space(nested);
        }
        next();
        return all;
    }

    Symbol char_class() {
        ++at_;
        const bool inverse = peek() == '^';
        if (inverse) ++at_;
        std::vector<Range> ranges;
        while (peek() != ']') {
            if (at_ >= text_.size()) fail("the closing ]");
            const char32_t low = character();
            char32_t high = low;
            if (peek() == '-' && peek(1) != ']') {
                ++at_;
                high = character();
            }
            ranges.emplace_back(low, high);
            count(1);
        }
        if (ranges.empty()) fail("at least one character in the class");
        ++at_;
        return set(std::move(ranges), inverse);
    }

    Symbol group() {
        if (++depth_ > Grammar::kMostDepth)
            refuse("nests more than " + std::to_string(Grammar::kMostDepth) + " groups", depth_,
                   Grammar::kMostDepth, "name some of them as rules");
        ++at_;
        space(true);
        const std::uint32_t id = unnamed(alternatives(true));
        if (peek() != ')') fail("the closing )");
        ++at_;
        --depth_;
        return {Kind::rule, id};
    }

    Symbol token() {
        const Kind kind = peek() == '!' ? Kind::not_token : Kind::token;
        if (kind == Kind::not_token) ++at_;
        if (peek() != '<') fail("< and a token");
        const std::size_t start = at_;
        if (peek(1) == '[') {
            at_ += 2;
            const std::uint64_t id = number();
            if (id >= n_tokens_)
                refuse("names the token " + text_.substr(start, std::min(at_ - start, kMostShown)) + ">", id,
                       n_tokens_ == 0 ? 0 : n_tokens_ - 1, "give the id of a token");
            if (peek() != ']' || peek(1) != '>') fail("]>");
            at_ += 2;
            return {kind, static_cast<std::uint32_t>(id)};
        }
        while (at_ < text_.size() && peek() != '>' && peek() != '\n') ++at_;
        if (peek() != '>') fail("the closing > of a token");
        ++at_;
        const std::string text = text_.substr(start, at_ - start);
        const Token id = find_token_(text);
        if (id == kNoToken)
            throw GrammarError("the grammar names the token " + text.substr(0, kMostShown) +
                               ", which the models' vocabulary does not have");
        return {kind, static_cast<std::uint32_t>(id)};
    }

    // S{m,n} becomes m times S and a rule for each further one that may come: S'(k) ::= S S'(k-1) | nothing.
    void repetition(Symbols& item, bool nested) {
        const std::size_t start = at_;
        const char c = text_[at_++];
        std::uint64_t low = c == '+' ? 1 : 0;
        std::uint64_t high = c == '?' ? 1 : kUnlimited;
        if (c == '{') {
            space(nested);
            low = number();
            space(nested);
            if (peek() == ',') {
                ++at_;
                space(nested);
                if (is_digit(peek())) high = number();
                space(nested);
            } else {
                high = low;
            }
            if (peek() != '}') fail("}");
            ++at_;
            const std::uint64_t largest = high == kUnlimited ? low : std::max(low, high);
            const std::string shown = text_.substr(start, std::min(at_ - start, kMostShown));
            if (largest > Grammar::kMostRepeats)
                refuse("repeats " + shown, largest, Grammar::kMostRepeats,
                       "leave the maximum out where any number will do");
            if (low > high)
                throw GrammarError("the grammar repeats " + shown + "; the maximum is below the minimum");
        }
        if (item.empty()) return;
        if (item.size() > 1) item = {{Kind::rule, unnamed({item})}};
        const Symbol once = item.front();
        count(low);
        item.assign(low, once);
        if (high == kUnlimited) {
            const std::uint32_t more = unnamed({});
            bodies_[more] = {{once, {Kind::rule, more}}, {}};
            count(3);
            item.push_back({Kind::rule, more});
            return;
        }
        if (high == low) return;
        count(3 * (high - low));
        std::uint32_t more = unnamed({{once}, {}});
        for (std::uint64_t i = low + 1; i < high; ++i) more = unnamed({{once, {Kind::rule, more}}, {}});
        item.push_back({Kind::rule, more});
    }

    const std::string& text_;
    const Grammar::FindToken& find_token_;
    std::size_t n_tokens_;
    std::size_t at_ = 0;
    std::size_t depth_ = 0;
    std::size_t n_symbols_ = 0;
    std::string current_;
    std::unordered_map<std::string, std::uint32_t> ids_;
    std::vector<std::string> names_;
    std::vector<bool> defined_;
    std::vector<Alternatives> bodies_;
    std::map<std::vector<Range>, std::uint32_t> set_ids_;
};

}  // namespace

ParsedGrammar parse_gbnf(const std::string& gbnf, const Grammar::FindToken& find_token,
                         std::size_t n_tokens) {
    if (gbnf.size() > Grammar::kMostBytes)
        refuse("has " + std::to_string(gbnf.size()) + " bytes", gbnf.size(), Grammar::kMostBytes,
               "shorten it");
    Parser parser(gbnf, find_token, n_tokens);
    parser.parse();
    return parser.take();
}

}  // namespace colm
