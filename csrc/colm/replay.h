// The decodes of a generation, made again alone.
#pragma once

#include <vector>

#include "colm/language_model.h"

namespace colm {

// A model, and the text that it reads.
struct Replayed {
    LanguageModel* model;
    const std::vector<Token>* tokens;
};

// Makes these decodes again, in order and with nothing beside them, and returns the seconds that each took:
// what a generation costs without the method. `models` are by expert; the text is in sequence 0 of each,
// which holds nothing before and after. Throws OptionError for a call that lies outside the text or does not
// follow the ones before it.
std::vector<double> replay(const std::vector<Replayed>& models, const std::vector<DecodeCall>& calls,
                           Interrupt& interrupt);

}  // namespace colm
