#include "colm/grammar.h"

#include <algorithm>
#include <limits>

#include "colm/error.h"
#include "colm/gbnf_parser.h"

namespace colm {
namespace {

using Kind = Grammar::Kind;
using Symbol = Grammar::Symbol;
using Range = Grammar::Range;

// The rules' symbols, one behind another.
Grammar flatten(const ParsedGrammar& parsed) {
    Grammar grammar;
    grammar.code.push_back({Kind::end, 0});
    grammar.rules.resize(parsed.bodies.size());
    for (std::size_t id = 0; id < parsed.bodies.size(); ++id)
        for (const ParsedGrammar::Sequence& sequence : parsed.bodies[id]) {
            // All empty alternatives are one place: the end.
            const std::size_t start = sequence.empty() ? 0 : grammar.code.size();
            grammar.rules[id].alternatives.push_back(static_cast<std::uint32_t>(start));
            if (sequence.empty()) continue;
            grammar.code.insert(grammar.code.end(), sequence.begin(), sequence.end());
            grammar.code.push_back({Kind::end, 0});
        }
    grammar.root = parsed.root;
    grammar.sets.resize(parsed.sets.size());
    grammar.class_starts.push_back(0);
    for (const auto& [ranges, id] : parsed.sets) {
        for (const Range& range : ranges) {
            grammar.class_starts.push_back(range.first);
            grammar.class_starts.push_back(range.second + 1);
        }
        grammar.sets[id] = ranges;
    }
    auto& starts = grammar.class_starts;
    std::sort(starts.begin(), starts.end());
    starts.erase(std::unique(starts.begin(), starts.end()), starts.end());
    return grammar;
}

// The rules that match the empty text.
std::vector<bool> find_empty(const Grammar& grammar) {
    struct Place {
        std::uint32_t rule;
        std::uint32_t at;
    };
    std::vector<bool> empty(grammar.rules.size());
    std::vector<std::vector<Place>> waiting(grammar.rules.size());  // by the rule that they stand before
    std::vector<Place> todo;
    for (std::uint32_t rule = 0; rule < grammar.rules.size(); ++rule)
        for (const std::uint32_t start : grammar.rules[rule].alternatives) todo.push_back({rule, start});
    while (!todo.empty()) {
        Place place = todo.back();
        todo.pop_back();
        while (grammar.code[place.at].kind == Kind::rule && empty[grammar.code[place.at].value]) ++place.at;
        const Symbol symbol = grammar.code[place.at];
        if (symbol.kind == Kind::rule) {
            waiting[symbol.value].push_back(place);
        } else if (symbol.kind == Kind::end && !empty[place.rule]) {
            empty[place.rule] = true;
            todo.insert(todo.end(), waiting[place.rule].begin(), waiting[place.rule].end());
            waiting[place.rule].clear();
        }
    }
    return empty;
}

// A call that happens before anything is read.
struct Call {
    std::uint32_t rule;
    bool last;  // nothing follows it in its alternative
};

std::vector<std::vector<Call>> first_calls(const Grammar& grammar) {
    const std::vector<bool> empty = find_empty(grammar);
    std::vector<std::vector<Call>> calls(grammar.rules.size());
    for (std::size_t rule = 0; rule < grammar.rules.size(); ++rule)
        for (std::uint32_t at : grammar.rules[rule].alternatives)
            for (; grammar.code[at].kind == Kind::rule; ++at) {
                const std::uint32_t called = grammar.code[at].value;
                calls[rule].push_back({called, grammar.code[at + 1].kind == Kind::end});
                if (!empty[called]) break;
            }
    return calls;
}

// Tarjan's strongly connected components of the calls, without recursion: a component is numbered after all
// that it calls.
std::vector<std::uint32_t> components(const std::vector<std::vector<Call>>& calls) {
    constexpr std::uint32_t kNone = std::numeric_limits<std::uint32_t>::max();
    struct Visit {
        std::uint32_t rule;
        std::size_t next;
    };
    std::vector<std::uint32_t> order(calls.size(), kNone), low(calls.size()), component(calls.size(), kNone);
    std::vector<std::uint32_t> open;
    std::vector<Visit> visits;
    std::uint32_t n_seen = 0;
    std::uint32_t n_components = 0;
    const auto enter = [&](std::uint32_t rule) {
        order[rule] = low[rule] = n_seen++;
        open.push_back(rule);
        visits.push_back({rule, 0});
    };
    for (std::uint32_t first = 0; first < calls.size(); ++first) {
        if (order[first] == kNone) enter(first);
        while (!visits.empty()) {
            const std::uint32_t rule = visits.back().rule;
            if (visits.back().next < calls[rule].size()) {
                const std::uint32_t called = calls[rule][visits.back().next++].rule;
                if (order[called] == kNone)
                    enter(called);
                else if (component[called] == kNone)
                    low[rule] = std::min(low[rule], order[called]);
                continue;
            }
            visits.pop_back();
            if (!visits.empty()) low[visits.back().rule] = std::min(low[visits.back().rule], low[rule]);
            if (low[rule] != order[rule]) continue;
            for (std::uint32_t member = kNone; member != rule;) {
                member = open.back();
                open.pop_back();
                component[member] = n_components;
            }
            ++n_components;
        }
    }
    return component;
}

}  // namespace

Grammar Grammar::parse(const std::string& gbnf, const FindToken& find_token, std::size_t n_tokens) {
    const ParsedGrammar parsed = parse_gbnf(gbnf, find_token, n_tokens);
    Grammar grammar = flatten(parsed);
    const std::vector<std::vector<Call>> calls = first_calls(grammar);
    const std::vector<std::uint32_t> component = components(calls);
    for (std::uint32_t rule = 0; rule < calls.size(); ++rule) {
        grammar.rules[rule].rank = component[rule];
        // A rule that ends by calling itself goes on where it was; one that has more to read would wait for
        // itself forever.
        for (const Call& call : calls[rule])
            if (!call.last && component[call.rule] == component[rule])
                throw GrammarError("the grammar has a left recursion: the rule \"" + parsed.names[call.rule] +
                                   "\" begins with itself; let it begin with what it repeats");
    }
    return grammar;
}

std::vector<Grammar::Range> Grammar::set_of(std::vector<Range> ranges, bool inverse) {
    std::sort(ranges.begin(), ranges.end());
    std::vector<Range> merged;
    for (const Range& range : ranges) {
        if (range.first > range.second) continue;
        if (!merged.empty() && range.first <= merged.back().second + 1)
            merged.back().second = std::max(merged.back().second, range.second);
        else
            merged.push_back(range);
    }
    if (inverse) {
        std::vector<Range> others;
        char32_t next = 0;
        for (const Range& range : merged) {
            if (range.first > next) others.emplace_back(next, range.first - 1);
            next = range.second + 1;
        }
        if (next <= kLastChar) others.emplace_back(next, kLastChar);
        merged = std::move(others);
    }
    std::vector<Range> kept;
    for (const auto& [first, last] : merged)
        for (const Range& part : {Range{1, 0xD7FF}, Range{0xE000, kLastChar}})
            if (std::max(first, part.first) <= std::min(last, part.second))
                kept.emplace_back(std::max(first, part.first), std::min(last, part.second));
    return kept;
}

std::uint32_t Grammar::char_class(char32_t c) const {
    const auto after = std::upper_bound(class_starts.begin(), class_starts.end(), c);
    return static_cast<std::uint32_t>(after - class_starts.begin() - 1);
}

bool Grammar::names_tokens() const {
    return std::any_of(code.begin(), code.end(),
                       [](const Symbol& s) { return s.kind == Kind::token || s.kind == Kind::not_token; });
}

bool Grammar::has(std::uint32_t set, char32_t c) const { return meets(set, c, c); }

bool Grammar::meets(std::uint32_t set, char32_t low, char32_t high) const {
    const std::vector<Range>& ranges = sets[set];
    const auto found = std::lower_bound(ranges.begin(), ranges.end(), low,
                                        [](const Range& range, char32_t c) { return range.second < c; });
    return found != ranges.end() && found->first <= high;
}

}  // namespace colm
