// Matching a text against a grammar: which tokens may follow.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "colm/grammar.h"

namespace colm {

class GrammarAutomaton;

// Reads a text and says which tokens may follow. Copies are cheap and independent, but they and the original
// share data, so only one thread at a time may use them.
//
// All parses of a text are followed at the same time. A continuation is what is left to do after a rule.
// Parses that call a rule at the same place share its continuation, and equal continuations are one object.
// The cost therefore depends on the number of places, not of parses, and a repeated state is recognised.
class GrammarMatcher {
  public:
    // Throws GrammarError if the start of the grammar alone takes more than kMostWork.
    explicit GrammarMatcher(std::shared_ptr<const Grammar> grammar);

    // The most places that may be visited between two calls of begin_step() (less than a second), and the
    // most that may be remembered for one text.
    static constexpr std::size_t kMostWork = 20'000'000;
    static constexpr std::size_t kMostMemory = 2'000'000;

    void begin_step();

    // Whether the text may end here.
    bool may_end() const;
    // Whether a token may follow: by its bytes, which may end inside a character, or by its id. Tokens
    // without bytes can only be meant by id. Throws GrammarError beyond kMostWork.
    bool allows(Token token, std::string_view bytes);
    // Reads the token. Returns false, without any change, if the token cannot follow. Throws GrammarError
    // beyond kMostWork or kMostMemory.
    bool accept(Token token, std::string_view bytes);

  private:
    // The first bytes of a character that the rest of is to come.
    struct Partial {
        char32_t value = 0;
        std::uint8_t n_left = 0;
        std::uint8_t length = 0;
    };

    std::uint32_t read(std::uint32_t state, Partial& partial, std::string_view bytes);

    std::shared_ptr<GrammarAutomaton> automaton_;
    std::uint32_t state_ = 0;
    Partial partial_;
};

}  // namespace colm
