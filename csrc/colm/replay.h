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
// what a generation costs without the method. `models` are by expert. `n_texts`: each decode is made of so
// many sequences at once, from 0 on, which hold the same text. They hold nothing before and after. Throws
// OptionError for a call that lies outside the text, does not fit a batch, or does not follow the ones
// before.
std::vector<double> replay(const std::vector<Replayed>& models, const std::vector<DecodeCall>& calls,
                           std::size_t n_texts, Interrupt& interrupt);

}  // namespace colm
