#include "colm/vocabulary.h"

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <utility>

#include "colm/error.h"
#include "colm/shown.h"

namespace colm {
namespace {

std::string describe_bos(const Vocabulary& vocabulary) {
    if (!vocabulary.add_bos) return "adds no token before the text";
    return "adds token " + std::to_string(vocabulary.bos) + " before the text";
}

}  // namespace

std::size_t Vocabulary::size_without_padding() const {
    std::size_t n = size();
    while (n > 0 && unused[n - 1]) --n;
    return n;
}

std::string expert_in_words(const std::string& name) {
    return name == "assistant" || name == "base" ? "the " + name : "the expert " + name;
}

std::size_t shared_vocabulary(const Vocabulary& base, const Vocabulary& expert, const std::string& name) {
    const bool only = name == "assistant";
    const std::string advice = std::string(". ") + (only ? "Base and assistant" : "All models of a pair") +
                               " must come from one family with one tokenizer";
    const std::string who = expert_in_words(name);
    if (base.type != expert.type)
        throw VocabMismatch("the base's tokenizer is of type " + base.type + ", " +
                                (only ? "the assistant's" : "that of " + who) + " of type " + expert.type +
                                advice,
                            -1, base.type, expert.type, name);
    const std::size_t n_shared = std::min(base.size_without_padding(), expert.size_without_padding());
    for (std::size_t id = 0; id < n_shared; ++id) {
        if (base.texts[id] == expert.texts[id]) continue;
        throw VocabMismatch("token " + std::to_string(id) + " is " + shown(base.texts[id]) +
                                " for the base and " + shown(expert.texts[id]) + " for " + who + advice,
                            static_cast<std::int64_t>(id), base.texts[id], expert.texts[id], name);
    }
    if (base.add_bos != expert.add_bos || (base.add_bos && base.bos != expert.bos))
        throw VocabMismatch("the base's tokenizer " + describe_bos(base) + "; " +
                                (only ? "the assistant's " : "that of " + who + " ") + describe_bos(expert) +
                                advice,
                            -1, describe_bos(base), describe_bos(expert), name);
    return n_shared;
}

std::vector<Token> padding_inside(const Vocabulary& base, const Vocabulary& expert, std::size_t n_shared) {
    std::vector<Token> ids;
    for (std::size_t id = 0; id < n_shared; ++id)
        if (base.unused[id] && expert.unused[id]) ids.push_back(static_cast<Token>(id));
    return ids;
}

CommonVocabulary common_vocabulary(const std::vector<const Vocabulary*>& models,
                                   const std::vector<std::string>& names) {
    const Vocabulary& base = *models.front();
    CommonVocabulary common;
    common.n_shared = base.size();
    common.eog = base.eog;
    for (std::size_t i = 1; i < models.size(); ++i) {
        common.n_shared = std::min(common.n_shared, shared_vocabulary(base, *models[i], names[i]));
        std::vector<Token> both;
        std::set_union(common.eog.begin(), common.eog.end(), models[i]->eog.begin(), models[i]->eog.end(),
                       std::back_inserter(both));
        common.eog = std::move(both);
    }
    common.blocked = padding_inside(base, *models[1], common.n_shared);
    for (std::size_t i = 2; i < models.size(); ++i) {
        const std::vector<Token> padding = padding_inside(base, *models[i], common.n_shared);
        std::vector<Token> all;
        std::set_intersection(padding.begin(), padding.end(), common.blocked.begin(), common.blocked.end(),
                              std::back_inserter(all));
        common.blocked = std::move(all);
    }
    return common;
}

std::string fingerprint(const Vocabulary& vocabulary) {
    std::uint64_t hash = 0xCBF29CE484222325ULL;
    const auto add = [&hash](const std::string& text) {
        for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ULL;
        // 0xFF is in no UTF-8 text, so ("ab", "c") and ("a", "bc") differ.
        hash = (hash ^ 0xFFU) * 0x100000001B3ULL;
    };
    add(vocabulary.type);
    const std::size_t n = vocabulary.size_without_padding();
    for (std::size_t id = 0; id < n; ++id) add(vocabulary.texts[id]);
    char digits[17];
    std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(hash));
    return digits;
}

}  // namespace colm
