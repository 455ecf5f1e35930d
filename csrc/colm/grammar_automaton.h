// What a grammar's texts lead to: states, and the ways between them.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "colm/grammar.h"
#include "colm/grammar_places.h"

namespace colm {

// The states that a text has met, and what leads from one to another. Made as it is needed.
class GrammarAutomaton {
  public:
    static constexpr std::uint32_t kNowhere = 0;  // the state that nothing leads out of
    static constexpr std::uint32_t kAscii = 128;

    explicit GrammarAutomaton(std::shared_ptr<const Grammar> grammar);

    // The state before a text.
    std::uint32_t begin();
    void begin_step() { work_ = 0; }
    std::size_t memory() const { return memory_; }
    bool may_end(std::uint32_t state) const {
        return !items(state).empty() && items(state)[0] == grammar::kMayEnd;
    }
    bool has_tokens(std::uint32_t state) const { return states_[state].has_tokens; }

    std::uint32_t after(std::uint32_t state, char32_t c);

    // Whether a character from `low` to `high` may follow.
    bool meets(std::uint32_t state, char32_t low, char32_t high);
    bool means(std::uint32_t state, Token token) const;

    // Behind the token as such, or at `other`.
    std::uint32_t after_token(std::uint32_t state, Token token, std::uint32_t other);

    // The state alone, without all that was met on the way to it.
    std::shared_ptr<GrammarAutomaton> only(std::uint32_t& state) const;

  private:
    using Item = grammar::Item;
    using Items = grammar::Items;

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

    static bool means(Grammar::Symbol symbol, Token token);

    void work(std::size_t n);
    void remember(std::size_t n);
    std::uint32_t after_class(std::uint32_t state, char32_t c);
    void read(Item item, char32_t c);
    const Index& indexed(std::uint32_t state);
    void clear();
    void push(std::uint32_t at, std::uint32_t then);
    // Follows what was pushed to the places where something is read; these are the state.
    std::uint32_t close();
    void call(std::uint32_t rule, Item from);
    void go_back(std::uint32_t then);
    // Gives the calls that the state needs their continuations, callers first.
    void name_calls();
    std::uint32_t rank(std::uint32_t rule) const { return grammar_->rules[rule].rank; }
    std::uint32_t add_state(Items all);

    std::shared_ptr<const Grammar> grammar_;
    grammar::Lists continuations_;
    grammar::Lists state_lists_;
    std::vector<State> states_;
    std::unordered_map<std::uint64_t, std::uint32_t> by_class_;
    std::size_t work_ = 0;
    std::size_t memory_ = 0;

    // Of the place that is being looked at.
    grammar::Seen seen_;
    Items todo_;
    Items found_;
    std::vector<Call> calls_;
    std::vector<std::uint32_t> call_of_rule_;
    std::vector<std::uint32_t> order_;
};

}  // namespace colm
