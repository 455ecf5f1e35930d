// A tokenizer's vocabulary as plain data, and whether two of them are one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "colm/types.h"

namespace colm {

struct Vocabulary {
    std::string type;                  // tokenizer type, such as "BPE"
    std::vector<std::string> texts;    // each token's raw text
    std::vector<std::uint8_t> unused;  // nonzero for padding entries that stand for no token
    std::vector<Token> eog;            // end-of-generation tokens, ascending
    Token bos = kNoToken;
    Token eos = kNoToken;
    bool add_bos = false;
    bool space_prefix = false;  // a space is put before a text, and behind a control token in it
    bool add_eos = false;

    std::size_t size() const { return texts.size(); }
    // Size without the unused entries at the end.
    std::size_t size_without_padding() const;
};

// How many ids, from 0, base and another expert share: the shorter of the two without padding. A tail on
// either side, padding or tokens added by fine-tuning, is allowed; its ids can never be chosen. Throws
// VocabMismatch where the types, the tokens that the tokenizer adds, or the text of a shared id differ.
std::size_t shared_vocabulary(const Vocabulary& base, const Vocabulary& expert,
                              const std::string& name = "assistant");

// Ids below `n_shared` that are padding for both; those cannot be chosen either.
std::vector<Token> padding_inside(const Vocabulary& base, const Vocabulary& expert, std::size_t n_shared);

// What the vocabularies of a base and its experts have in common.
struct CommonVocabulary {
    std::size_t n_shared = 0;    // ids, from 0, that all share
    std::vector<Token> blocked;  // of those, padding for all; ascending
    std::vector<Token> eog;      // of any of them, ascending
};

// Requires the base's and one more, each with its name. Throws VocabMismatch as shared_vocabulary() does.
CommonVocabulary common_vocabulary(const std::vector<const Vocabulary*>& models,
                                   const std::vector<std::string>& names);

// An expert in a message: "the assistant", "the expert code".
std::string expert_in_words(const std::string& name);

// 16 hexadecimal digits that name the vocabulary whatever its padding: FNV-1a over type and token texts.
std::string fingerprint(const Vocabulary& vocabulary);

}  // namespace colm
