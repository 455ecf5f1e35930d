#include "colm/grammar_matcher.h"

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "colm/error.h"

namespace colm {
namespace {

using Kind = Grammar::Kind;

constexpr std::uint32_t kEnd = 0;      // the place behind all alternatives: code[0]
constexpr std::uint32_t kNowhere = 0;  // the state that nothing leads out of
constexpr std::uint32_t kUnknown = std::numeric_limits<std::uint32_t>::max();
constexpr std::uint32_t kAscii = 128;
// To follow a place takes longer than to ask it for a character.
constexpr std::size_t kWorkOfItem = 4;
// From so many items on, a state finds those that read a character by its class, where they read few classes.
constexpr std::size_t kIndexed = 32;
constexpr std::uint32_t kFewClasses = 4;

// A place in the grammar's code and what follows its rule. In a state: what is read next. In a continuation:
// where reading goes on. `{kEnd, 0}` in either says that the text may end.
struct Item {
    std::uint32_t at;
    std::uint32_t then;  // continuation

    std::uint64_t key() const { return std::uint64_t{at} << 32 | then; }
    bool operator==(const Item& other) const { return key() == other.key(); }
    bool operator<(const Item& other) const { return key() < other.key(); }
};
using Items = std::vector<Item>;
constexpr Item kMayEnd{kEnd, 0};

std::uint64_t mixed(std::uint64_t x) {
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93U;
    return x ^ x >> 32;
}

struct HashItems {
    std::size_t operator()(const Items& items) const {
        std::uint64_t hash = items.size();
        for (const Item& item : items) hash = mixed(hash ^ item.key());
        return static_cast<std::size_t>(hash);
    }
};

// Equal lists are one, with a number.
class Lists {
  public:
    std::pair<std::uint32_t, bool> add(Items items) {
        const auto next = static_cast<std::uint32_t>(by_number_.size());
        const auto [found, is_new] = numbers_.emplace(std::move(items), next);
        if (is_new) by_number_.push_back(&found->first);
        return {found->second, is_new};
    }
    const Items& operator[](std::uint32_t number) const { return *by_number_[number]; }

  private:
    std::unordered_map<Items, std::uint32_t, HashItems> numbers_;
    std::vector<const Items*> by_number_;
};

// Which items were met; emptied for every character.
class Seen {
  public:
    void clear() {
        if (slots_.size() > 64 && slots_.size() > 16 * size_)
            slots_.assign(64, kFree);
        else if (size_ > 0)
            std::fill(slots_.begin(), slots_.end(), kFree);
        size_ = 0;
    }
    bool insert(std::uint64_t key) {
        if (2 * size_ >= slots_.size()) grow();
        if (!put(key)) return false;
        ++size_;
        return true;
    }

  private:
    static constexpr std::uint64_t kFree = ~std::uint64_t{0};

    bool put(std::uint64_t key) {
        std::size_t i = static_cast<std::size_t>(mixed(key)) & (slots_.size() - 1);
        for (; slots_[i] != kFree; i = (i + 1) & (slots_.size() - 1))
            if (slots_[i] == key) return false;
        slots_[i] = key;
        return true;
    }
    void grow() {
        std::vector<std::uint64_t> old(std::max<std::size_t>(64, 2 * slots_.size()), kFree);
        old.swap(slots_);
        for (const std::uint64_t key : old)
            if (key != kFree) put(key);
    }

    std::vector<std::uint64_t> slots_;
    std::size_t size_ = 0;
};

}  // namespace

// The states that a text has met, and what leads from one to another. Made as it is needed.
class GrammarMatcher::Automaton {
  public:
    explicit Automaton(std::shared_ptr<const Grammar> grammar)
        : grammar_(std::move(grammar)), call_of_rule_(grammar_->rules.size(), kUnknown) {
        continuations_.add({kMayEnd});
        add_state({});
    }

    std::uint32_t begin() {
        clear();
        for (const std::uint32_t start : grammar_->rules[grammar_->root].alternatives) push(start, 0);
        return close();
    }

    void begin_step() { work_ = 0; }
    std::size_t memory() const { return memory_; }
    bool may_end(std::uint32_t state) const { return !items(state).empty() && items(state)[0] == kMayEnd; }
    bool has_tokens(std::uint32_t state) const { return states_[state].has_tokens; }

    std::uint32_t after(std::uint32_t state, char32_t c) {
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

    // Whether a character from `low` to `high` may follow.
    bool meets(std::uint32_t state, char32_t low, char32_t high) {
        work(items(state).size());
        for (const Item& item : items(state)) {
            const Grammar::Symbol symbol = grammar_->code[item.at];
            if (symbol.kind == Kind::chars && grammar_->meets(symbol.value, low, high)) return true;
        }
        return false;
    }

    bool means(std::uint32_t state, Token token) const {
        return std::any_of(items(state).begin(), items(state).end(),
                           [&](const Item& item) { return means(grammar_->code[item.at], token); });
    }

    // Behind the token as such, or at `other`.
    std::uint32_t after_token(std::uint32_t state, Token token, std::uint32_t other) {
        clear();
        for (const Item item : items(state))
            if (means(grammar_->code[item.at], token)) push(item.at + 1, item.then);
        const std::uint32_t next = close();
        Items both = items(next);
        both.insert(both.end(), items(other).begin(), items(other).end());
        return add_state(std::move(both));
    }

    // The state alone, without all that was met on the way to it.
    std::shared_ptr<Automaton> only(std::uint32_t& state) const {
        auto other = std::make_shared<Automaton>(grammar_);
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

  private:
    // The items of a large state by the characters that they read: those of few classes by class, and others.
    struct Index {
        std::vector<std::pair<std::uint32_t, std::uint32_t>> narrow;  // class, place of the item; ascending
        std::vector<std::uint32_t> wide;
    };
    struct State {
        bool has_tokens = false;
        std::unique_ptr<Index> index;
        std::unique_ptr<std::array<std::uint32_t, kAscii>> ascii;
    };
    // A rule that was called at the place that is being looked at. Where it may go on is not yet all known.
    struct Call {
        std::uint32_t rule;
        bool done = false;  // the rule matches the empty text
        bool wanted = false;
        std::uint32_t continuation = 0;
        Items callers;
    };
    // Continuations from here on are calls.
    static constexpr std::uint32_t kCalls = std::uint32_t{1} << 31;

    const Items& items(std::uint32_t state) const { return state_lists_[state]; }

    static bool means(Grammar::Symbol symbol, Token token) {
        const bool same = symbol.value == static_cast<std::uint32_t>(token);
        return symbol.kind == Kind::token ? same : symbol.kind == Kind::not_token && !same;
    }

    void work(std::size_t n) {
        work_ += n;
        if (work_ > kMostWork)
            throw GrammarError("the grammar has more than " + std::to_string(kMostWork) +
                                   " places to look at for one token, which is the limit; make it less "
                                   "ambiguous: fewer optional parts in a row, no repetition of repetitions",
                               {{"value", static_cast<std::int64_t>(work_)},
                                {"limit", static_cast<std::int64_t>(kMostWork)}});
    }
    void remember(std::size_t n) {
        memory_ += n;
        work(n);
    }

    std::uint32_t after_class(std::uint32_t state, char32_t c) {
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

    void read(Item item, char32_t c) {
        const Grammar::Symbol symbol = grammar_->code[item.at];
        if (symbol.kind == Kind::chars && grammar_->has(symbol.value, c)) push(item.at + 1, item.then);
    }

    const Index& indexed(std::uint32_t state) {
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

    void clear() {
        seen_.clear();
        todo_.clear();
        found_.clear();
        for (const Call& call : calls_) call_of_rule_[call.rule] = kUnknown;
        calls_.clear();
    }

    void push(std::uint32_t at, std::uint32_t then) {
        work(kWorkOfItem);
        const Item item{grammar_->code[at].kind == Kind::end ? kEnd : at, then};
        if (seen_.insert(item.key())) todo_.push_back(item);
    }

    // Follows what was pushed to the places where something is read; these are the state.
    std::uint32_t close() {
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

    void call(std::uint32_t rule, Item from) {
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

    void go_back(std::uint32_t then) {
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

    // Gives the calls that the state needs their continuations, callers first.
    void name_calls() {
        if (calls_.empty()) return;
        order_.clear();
        for (std::uint32_t i = 0; i < calls_.size(); ++i) order_.push_back(i);
        std::sort(order_.begin(), order_.end(), [&](std::uint32_t a, std::uint32_t b) {
            return rank(calls_[a].rule) < rank(calls_[b].rule);
        });
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

    std::uint32_t rank(std::uint32_t rule) const { return grammar_->rules[rule].rank; }

    std::uint32_t add_state(Items all) {
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

    std::shared_ptr<const Grammar> grammar_;
    Lists continuations_;
    Lists state_lists_;
    std::vector<State> states_;
    std::unordered_map<std::uint64_t, std::uint32_t> by_class_;
    std::size_t work_ = 0;
    std::size_t memory_ = 0;

    // Of the place that is being looked at.
    Seen seen_;
    Items todo_;
    Items found_;
    std::vector<Call> calls_;
    std::vector<std::uint32_t> call_of_rule_;
    std::vector<std::uint32_t> order_;
};

GrammarMatcher::GrammarMatcher(std::shared_ptr<const Grammar> grammar)
    : automaton_(std::make_shared<Automaton>(std::move(grammar))), state_(automaton_->begin()) {}

void GrammarMatcher::begin_step() { automaton_->begin_step(); }

bool GrammarMatcher::may_end() const { return partial_.n_left == 0 && automaton_->may_end(state_); }

// Bytes that are no UTF-8 lead nowhere.
std::uint32_t GrammarMatcher::read(std::uint32_t state, Partial& partial, std::string_view bytes) {
    for (const char byte : bytes) {
        const auto c = static_cast<unsigned char>(byte);
        if (partial.n_left == 0) {
            if (c < kAscii) {
                state = automaton_->after(state, c);
                if (state == kNowhere) return state;
                continue;
            }
            if (c < 0xC2 || c > 0xF4) return kNowhere;
            partial.length = c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
            partial.n_left = static_cast<std::uint8_t>(partial.length - 1);
            partial.value = c & (0xFFU >> (partial.length + 1));
            continue;
        }
        if ((c & 0xC0) != 0x80) return kNowhere;
        partial.value = partial.value << 6 | (c & 0x3FU);
        if (--partial.n_left > 0) continue;
        constexpr std::array<char32_t, 5> kLeast{0, 0, 0x80, 0x800, 0x10000};
        if (partial.value < kLeast[partial.length] || partial.value > 0x10FFFF) return kNowhere;
        state = automaton_->after(state, partial.value);
        if (state == kNowhere) return state;
    }
    if (partial.n_left == 0) return state;
    const unsigned shift = 6U * partial.n_left;
    const char32_t low = partial.value << shift;
    const char32_t high = low | ((char32_t{1} << shift) - 1);
    constexpr std::array<char32_t, 5> kLeast{0, 0, 0x80, 0x800, 0x10000};
    return automaton_->meets(state, std::max(low, kLeast[partial.length]), high) ? state : kNowhere;
}

bool GrammarMatcher::allows(Token token, std::string_view bytes) {
    const bool whole = partial_.n_left == 0;
    if (whole && automaton_->has_tokens(state_) && automaton_->means(state_, token)) return true;
    if (bytes.empty()) return false;
    Partial partial = partial_;
    return read(state_, partial, bytes) != kNowhere;
}

bool GrammarMatcher::accept(Token token, std::string_view bytes) {
    Partial partial = partial_;
    std::uint32_t next = bytes.empty() ? kNowhere : read(state_, partial, bytes);
    const bool whole = partial_.n_left == 0;
    if (whole && automaton_->has_tokens(state_) && automaton_->means(state_, token)) {
        // Inside a character no other token is read as such.
        if (next == kNowhere) partial = Partial{};
        if (partial.n_left == 0) next = automaton_->after_token(state_, token, next);
    }
    if (next == kNowhere) return false;
    partial_ = partial;
    state_ = next;
    if (automaton_->memory() <= kMostMemory) return true;
    // What led here is not needed again; only a copy may still know it.
    automaton_ = automaton_->only(state_);
    if (automaton_->memory() > kMostMemory / 2)
        throw GrammarError("the grammar has more than " + std::to_string(kMostMemory / 2) +
                               " places to remember of this text, which is the limit; make it less ambiguous",
                           {{"value", static_cast<std::int64_t>(automaton_->memory())},
                            {"limit", static_cast<std::int64_t>(kMostMemory / 2)}});
    return true;
}

}  // namespace colm
