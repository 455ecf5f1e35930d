// What a grammar allows after a text.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "colm/grammar.h"

namespace colm {

// Reads a text as far as it goes and says what may follow. Copies are cheap and go their own ways; they and
// the original are for one thread at a time.
//
// All ways of reading a text are followed at once. What is left to do after a rule, the continuation, is
// shared by all ways that call the rule at one place, and equal continuations are one object: so the number
// of places counts, not the number of ways, and a state that comes back is recognised, with what follows it.
class GrammarMatcher {
  public:
    // Throws GrammarError where the beginning alone takes more than kMostWork.
    explicit GrammarMatcher(std::shared_ptr<const Grammar> grammar);

    // The most that may be computed between two calls of begin_step(), in places looked at (under a second),
    // and what may be remembered of a text, likewise.
    static constexpr std::size_t kMostWork = 20'000'000;
    static constexpr std::size_t kMostMemory = 2'000'000;

    void begin_step();

    // Whether the text may end here.
    bool may_end() const;
    // Whether a token may follow: by its bytes, which may end inside a character, or by its id. Tokens
    // without bytes can only be meant by id. Throws GrammarError beyond kMostWork.
    bool allows(Token token, std::string_view bytes);
    // Goes on behind the token; false, and nothing changes, where it cannot follow. Throws GrammarError
    // beyond kMostWork or kMostMemory.
    bool accept(Token token, std::string_view bytes);

  private:
    class Automaton;
    // The first bytes of a character that the rest of is to come.
    struct Partial {
        char32_t value = 0;
        std::uint8_t n_left = 0;
        std::uint8_t length = 0;
    };

    std::uint32_t read(std::uint32_t state, Partial& partial, std::string_view bytes);

    std::shared_ptr<Automaton> automaton_;
    std::uint32_t state_ = 0;
    Partial partial_;
};

}  // namespace colm
