// Reads a deferral head from its GGUF file (docs/head-format.md).
#pragma once

#include <memory>
#include <string>

#include "colm/head.h"

namespace colm::llama {

// Throws LoadError for a missing or damaged file, HeadError for a file that is not a head or not a valid one.
std::shared_ptr<const LearnedHead> read_head(const std::string& path);

// The names that features and activations have in files, in Python and in messages.
Feature parse_feature(const std::string& name);
const char* feature_name(Feature feature);
Activation parse_activation(const std::string& name);
const char* activation_name(Activation activation);

}  // namespace colm::llama
