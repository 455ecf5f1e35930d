// Reading GBNF.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "colm/grammar.h"

namespace colm {

// The rules of a GBNF text, with repetitions unrolled into further rules.
struct ParsedGrammar {
    using Sequence = std::vector<Grammar::Symbol>;
    using Alternatives = std::vector<Sequence>;

    std::vector<Alternatives> bodies;
    // For messages: a rule that repetition or a group made has the name of the one it stands in.
    std::vector<std::string> names;
    std::map<std::vector<Grammar::Range>, std::uint32_t> sets;  // as in Grammar, with their numbers
    std::uint32_t root = 0;
};

// Throws GrammarError for what is no GBNF, and for grammars beyond the limits of Grammar.
ParsedGrammar parse_gbnf(const std::string& gbnf, const Grammar::FindToken& find_token, std::size_t n_tokens);

}  // namespace colm
