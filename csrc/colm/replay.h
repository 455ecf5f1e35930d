// The decodes of a generation, made again alone.
#pragma once

#include <vector>

#include "colm/language_model.h"

namespace colm {

// Makes these decodes of `tokens` again, in order and with nothing beside them, and returns the seconds that
// each took: what a generation costs without the method. `models` are by expert; the text is in sequence 0 of
// each, which holds nothing before and after. Throws OptionError for a call that lies outside `tokens` or
// does not follow the ones before it.
std::vector<double> replay(const std::vector<LanguageModel*>& models, const std::vector<Token>& tokens,
                           const std::vector<DecodeCall>& calls, Interrupt& interrupt);

}  // namespace colm
