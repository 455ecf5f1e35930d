#include "colm/grammar_automaton.h"

#include <algorithm>
#include <limits>
#include <string>

#include "colm/error.h"
#include "colm/grammar_matcher.h"

namespace colm {
namespace {

using grammar::kEnd;
using grammar::kMayEnd;
using Kind = Grammar::Kind;

constexpr std::uint32_t kUnknown = std::numeric_limits<std::uint32_t>::max();
// To follow a place takes longer than to ask it for a character.
constexpr std::size_t kWorkOfItem = 4;
// From so many items on, a state finds those that read a character by its class, where they read few classes.
constexpr std::size_t kIndexed = 32;
constexpr std::uint32_t kFewClasses = 4;

}  // namespace

GrammarAutomaton::GrammarAutomaton(std::shared_ptr<const Grammar> grammar)
    : grammar_(std::move(grammar)), call_of_rule_(grammar_->rules.size(), kUnknown) {
    continuations_.add({kMayEnd});
    add_state({});
}

std::uint32_t GrammarAutomaton::begin() {
    clear();
    for (const std::uint32_t start : grammar_->rules[grammar_->root].alternatives) push(start, 0);
    return close();
}

std::uint32_t GrammarAutomaton::after(std::uint32_t state, char32_t c) {
    if (c >= kAscii) return after_class(state, c);
    auto& known = states_[state].ascii;
    if (!known) {
        known = std::make_unique<std::array<std::uint32_t, kAscii>>();
        known->fill(kUnknown);
        remember(kAscii / 2);
    }
    std::uint32_t& next = (*known)[c];
    if (next == kUnknown) {
        const std::uint32_t found = after_class(state, c);  // `states_` may have moved
        return (*states_[state].ascii)[c] = found;
    }
    return next;
}

bool GrammarAutomaton::meets(std::uint32_t state, char32_t low, char32_t high) {
    work(items(state).size());
    for (const Item& item : items(state)) {
        const Grammar::Symbol symbol = grammar_->code[item.at];
        if (symbol.kind == Kind::chars && grammar_->meets(symbol.value, low, high)) return true;
    }
    return false;
}

bool GrammarAutomaton::means(std::uint32_t state, Token token) const {
    return std::any_of(items(state).begin(), items(state).end(),
                       [&](const Item& item) { return means(grammar_->code[item.at], token); });
}

std::uint32_t GrammarAutomaton::after_token(std::uint32_t state, Token token, std::uint32_t other) {
    clear();
    for (const Item item : items(state))
        if (means(grammar_->code[item.at], token)) push(item.at + 1, item.then);
    const std::uint32_t next = close();
    Items both = items(next);
    both.insert(both.end(), items(other).begin(), items(other).end());
    return add_state(std::move(both));
}

std::shared_ptr<GrammarAutomaton> GrammarAutomaton::only(std::uint32_t& state) const {
    auto other = std::make_shared<GrammarAutomaton>(grammar_);
    std::unordered_map<std::uint32_t, std::uint32_t> copies{{0, 0}};
    std::vector<std::uint32_t> todo;
    const auto missing = [&](const Items& all) {
        for (const Item& item : all)
            if (item.at != kEnd && copies.find(item.then) == copies.end()) todo.push_back(item.then);
    };
    const auto copied = [&](Items all) {
        for (Item& item : all)
            if (item.at != kEnd) item.then = copies.at(item.then);
        std::sort(all.begin(), all.end());
        return all;
    };
    missing(items(state));
    while (!todo.empty()) {
        const std::uint32_t continuation = todo.back();
        const std::size_t n = todo.size();
        if (copies.find(continuation) == copies.end()) missing(continuations_[continuation]);
        if (todo.size() != n) continue;
        todo.pop_back();
        if (copies.find(continuation) != copies.end()) continue;
        const auto [number, is_new] = other->continuations_.add(copied(continuations_[continuation]));
        if (is_new) other->remember(continuations_[continuation].size() + 8);
        copies.emplace(continuation, number);
    }
    state = other->add_state(copied(items(state)));
    return other;
}

bool GrammarAutomaton::means(Grammar::Symbol symbol, Token token) {
    const bool same = symbol.value == static_cast<std::uint32_t>(token);
    return symbol.kind == Kind::token ? same : symbol.kind == Kind::not_token && !same;
}

void GrammarAutomaton::work(std::size_t n) {
    work_ += n;
    if (work_ > GrammarMatcher::kMostWork)
        throw GrammarError("the grammar has more than " + std::to_string(GrammarMatcher::kMostWork) +
                               " places to look at for one token, which is the limit; make it less "
                               "ambiguous: fewer optional parts in a row, no repetition of repetitions",
                           {{"value", static_cast<std::int64_t>(work_)},
                            {"limit", static_cast<std::int64_t>(GrammarMatcher::kMostWork)}});
}

void GrammarAutomaton::remember(std::size_t n) {
    memory_ += n;
    work(n);
}

std::uint32_t GrammarAutomaton::after_class(std::uint32_t state, char32_t c) {
    const std::uint64_t key = std::uint64_t{state} << 32 | grammar_->char_class(c);
    const auto found = by_class_.find(key);
    if (found != by_class_.end()) return found->second;
    clear();
    const Items& all = items(state);
    if (all.size() < kIndexed) {
        work(all.size());
        for (const Item& item : all) read(item, c);
    } else {
        const Index& index = indexed(state);
        const std::uint32_t cls = grammar_->char_class(c);
        work(index.wide.size() + 1);
        for (const std::uint32_t i : index.wide) read(all[i], c);
        auto found_item = std::lower_bound(index.narrow.begin(), index.narrow.end(),
                                           std::pair<std::uint32_t, std::uint32_t>{cls, 0});
        for (; found_item != index.narrow.end() && found_item->first == cls; ++found_item)
            read(all[found_item->second], c);
    }
    const std::uint32_t next = close();
    remember(4);
    by_class_.emplace(key, next);
    return next;
}

void GrammarAutomaton::read(Item item, char32_t c) {
    const Grammar::Symbol symbol = grammar_->code[item.at];
    if (symbol.kind == Kind::chars && grammar_->has(symbol.value, c)) push(item.at + 1, item.then);
}

const GrammarAutomaton::Index& GrammarAutomaton::indexed(std::uint32_t state) {
    std::unique_ptr<Index>& index = states_[state].index;
    if (index) return *index;
    const Items& all = items(state);
    index = std::make_unique<Index>();
    for (std::uint32_t i = 0; i < all.size(); ++i) {
        const Grammar::Symbol symbol = grammar_->code[all[i].at];
        if (symbol.kind != Kind::chars) continue;
        const std::vector<Grammar::Range>& ranges = grammar_->sets[symbol.value];
        const std::uint32_t first = ranges.empty() ? 0 : grammar_->char_class(ranges.front().first);
        const std::uint32_t last = ranges.empty() ? 0 : grammar_->char_class(ranges.back().second);
        if (last - first >= kFewClasses) {
            index->wide.push_back(i);
            continue;
        }
        for (std::uint32_t cls = first; cls <= last; ++cls) index->narrow.emplace_back(cls, i);
    }
    std::sort(index->narrow.begin(), index->narrow.end());
    remember(index->narrow.size() + index->wide.size());
    return *states_[state].index;
}

void GrammarAutomaton::clear() {
    seen_.clear();
    todo_.clear();
    found_.clear();
    for (const Call& call : calls_) call_of_rule_[call.rule] = kUnknown;
    calls_.clear();
}

void GrammarAutomaton::push(std::uint32_t at, std::uint32_t then) {
    work(kWorkOfItem);
    const Item item{grammar_->code[at].kind == Kind::end ? kEnd : at, then};
    if (seen_.insert(item.key())) todo_.push_back(item);
}

std::uint32_t GrammarAutomaton::close() {
    while (!todo_.empty()) {
        const Item item = todo_.back();
        todo_.pop_back();
        const Grammar::Symbol symbol = grammar_->code[item.at];
        if (symbol.kind == Kind::rule)
            call(symbol.value, item);
        else if (item.at == kEnd)
            go_back(item.then);
        else
            found_.push_back(item);
    }
    name_calls();
    for (Item& item : found_)
        if (item.then >= kCalls) item.then = calls_[item.then - kCalls].continuation;
    return add_state(std::move(found_));
}

void GrammarAutomaton::call(std::uint32_t rule, Item from) {
    std::uint32_t then = from.then;
    // A rule that ends with a call leaves nothing behind: the called one goes on as it would have.
    if (grammar_->code[from.at + 1].kind != Kind::end) {
        std::uint32_t& number = call_of_rule_[rule];
        const bool is_new = number == kUnknown;
        if (is_new) {
            number = static_cast<std::uint32_t>(calls_.size());
            calls_.emplace_back();
            calls_.back().rule = rule;
        }
        then = kCalls + number;
        calls_[number].callers.push_back({from.at + 1, from.then});
        if (calls_[number].done) push(from.at + 1, from.then);
        if (!is_new) return;
    }
    for (const std::uint32_t start : grammar_->rules[rule].alternatives) push(start, then);
}

void GrammarAutomaton::go_back(std::uint32_t then) {
    if (then >= kCalls) {
        Call& call = calls_[then - kCalls];
        call.done = true;
        for (const Item& caller : call.callers) push(caller.at, caller.then);
        return;
    }
    for (const Item& item : continuations_[then])
        if (item == kMayEnd)
            found_.push_back(kMayEnd);
        else
            push(item.at, item.then);
}

void GrammarAutomaton::name_calls() {
    if (calls_.empty()) return;
    order_.clear();
    for (std::uint32_t i = 0; i < calls_.size(); ++i) order_.push_back(i);
    std::sort(order_.begin(), order_.end(),
              [&](std::uint32_t a, std::uint32_t b) { return rank(calls_[a].rule) < rank(calls_[b].rule); });
    for (const Item& item : found_)
        if (item.then >= kCalls) calls_[item.then - kCalls].wanted = true;
    for (const std::uint32_t i : order_)
        if (calls_[i].wanted)
            for (const Item& caller : calls_[i].callers)
                if (caller.then >= kCalls) calls_[caller.then - kCalls].wanted = true;
    for (auto i = order_.rbegin(); i != order_.rend(); ++i) {
        Call& call = calls_[*i];
        if (!call.wanted) continue;
        for (Item& caller : call.callers)
            if (caller.then >= kCalls) caller.then = calls_[caller.then - kCalls].continuation;
        std::sort(call.callers.begin(), call.callers.end());
        call.callers.erase(std::unique(call.callers.begin(), call.callers.end()), call.callers.end());
        const std::size_t n = call.callers.size();
        const auto [number, is_new] = continuations_.add(std::move(call.callers));
        if (is_new) remember(n + 8);
        call.continuation = number;
    }
}

std::uint32_t GrammarAutomaton::add_state(Items all) {
    std::sort(all.begin(), all.end());
    all.erase(std::unique(all.begin(), all.end()), all.end());
    const auto [number, is_new] = state_lists_.add(std::move(all));
    if (!is_new) return number;
    states_.emplace_back();
    for (const Item& item : items(number)) {
        const Kind kind = grammar_->code[item.at].kind;
        if (kind == Kind::token || kind == Kind::not_token) states_.back().has_tokens = true;
    }
    remember(items(number).size() + 16);
    return number;
}

}  // namespace colm
