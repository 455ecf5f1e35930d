#include "llama/vocabularies.h"

#include <algorithm>
#include <optional>
#include <unordered_set>
#include <utility>

#include "colm/error.h"
#include "colm/text_stream.h"

namespace colm::llama {
namespace {

// Stands before what an SPM tokenizer encodes from the middle of a text, so that it puts its space there. As
// a byte of its own it is part of no other token.
const std::string kBefore = "\x01";

class LlamaTokenizer final : public Tokenizer {
  public:
    explicit LlamaTokenizer(const LlamaModel& model) : vocab_(model.vocab()) {
        for (Token token = 0; token < llama_vocab_n_tokens(vocab_); ++token)
            word_ends_.add_piece(piece(token));
        if (!model.vocabulary().space_prefix) return;
        try {
            before_ = tokenize(vocab_, kBefore, false, false);
        } catch (const TokenizeError&) {
            throw LoadError(model.path() +
                            " has no tokens for single bytes, so it cannot read what a model with another "
                            "vocabulary writes; convert the model again, or use models of one family");
        }
    }

    std::string piece(Token token) const override { return llama::piece(vocab_, token, false); }

    std::vector<Token> encode(const std::string& text) const override {
        if (text.empty()) return {};
        if (before_.empty()) return tokenize(vocab_, text, false, false);
        std::vector<Token> tokens = tokenize(vocab_, kBefore + text, false, false);
        const auto n = static_cast<std::ptrdiff_t>(std::min(before_.size(), tokens.size()));
        tokens.erase(tokens.begin(), tokens.begin() + n);
        return tokens;
    }

    const WordEnds& word_ends() const override { return word_ends_; }

  private:
    const llama_vocab* vocab_;
    WordEnds word_ends_;
    std::vector<Token> before_;
};

// Whether a tokenizer gives a text back as it was, and whether what it does behind a word depends on nothing
// before it.
bool can_share(const Vocabulary& vocabulary) { return vocabulary.type == "BPE" || vocabulary.type == "SPM"; }

bool contains(const std::vector<Token>& ascending, Token token) {
    return std::binary_search(ascending.begin(), ascending.end(), token);
}

}  // namespace

Vocabularies::Vocabularies(const Models& models, const std::vector<std::string>& names,
                           std::size_t most_ids) {
    std::vector<std::vector<const Vocabulary*>> members;
    for (std::size_t i = 0; i < models.size(); ++i) {
        const Vocabulary& vocabulary = models[i]->vocabulary();
        of_.push_back(find(vocabulary, names[i]));
        if (of_.back() == all_.size()) {
            all_.emplace_back();
            all_.back().model = models[i];
            members.emplace_back();
        }
        members[of_.back()].push_back(&vocabulary);
    }
    for (std::size_t i = 0; i < all_.size(); ++i) {
        One& one = all_[i];
        if (members[i].size() == 1) members[i].push_back(members[i].front());  // its own padding
        one.common = colm::common_vocabulary(members[i], std::vector<std::string>(members[i].size()));
        if (i == 0 && one.common.n_shared > most_ids) {
            one.common.n_shared = most_ids;
            auto& blocked = one.common.blocked;
            const auto beyond = [&](Token token) { return static_cast<std::size_t>(token) >= most_ids; };
            blocked.erase(std::remove_if(blocked.begin(), blocked.end(), beyond), blocked.end());
        }
        one.eog = std::make_shared<const std::vector<Token>>(one.common.eog);
        if (!alike()) one.tokenizer = std::make_shared<LlamaTokenizer>(*one.model);
    }
}

// Which of those so far it is; their number where it is none.
std::size_t Vocabularies::find(const Vocabulary& vocabulary, const std::string& name) const {
    std::optional<VocabMismatch> unlike;
    for (std::size_t i = 0; i < all_.size(); ++i) {
        try {
            shared_vocabulary(all_[i].model->vocabulary(), vocabulary, name);
            return i;
        } catch (const VocabMismatch& error) {
            if (!unlike) unlike = error;
        }
    }
    if (unlike && !(can_share(vocabulary) && can_share(all_.front().model->vocabulary()))) throw *unlike;
    return all_.size();
}

Vocabularies::Overlap Vocabularies::overlap(ExpertId one, ExpertId other) const {
    const auto texts_of = [this](ExpertId expert) {
        std::unordered_set<std::string> texts;
        for (std::size_t id = 0; id < n_ids(expert); ++id)
            if (std::string text = piece(vocab(expert), static_cast<Token>(id), false); !text.empty())
                texts.insert(std::move(text));
        return texts;
    };
    const auto of_one = texts_of(one);
    const auto of_other = texts_of(other);
    const auto both = std::count_if(of_one.begin(), of_one.end(),
                                    [&](const std::string& text) { return of_other.count(text) > 0; });
    return {static_cast<std::size_t>(both), of_one.size(), of_other.size()};
}

Choices Vocabularies::choices() const {
    Choices choices{n_ids(kBase), blocked(kBase)};
    if (alike()) return choices;
    for (ExpertId expert = 0; expert < of_.size(); ++expert)
        choices.own.push_back({n_ids(expert), blocked(expert)});
    return choices;
}

std::shared_ptr<const TokenTexts> Vocabularies::texts(ExpertId expert) const {
    const One& of = one(expert);
    std::call_once(*of.texts_made,
                   [&] { of.texts = std::make_shared<const TokenTexts>(of.model->vocab(), *of.eog); });
    return of.texts;
}

std::function<std::string(const Step&)> Vocabularies::pieces() const {
    std::vector<const llama_vocab*> vocabs;
    for (ExpertId expert = 0; expert < of_.size(); ++expert) vocabs.push_back(vocab(expert));
    return [vocabs](const Step& step) { return piece(vocabs[step.expert], step.token, false); };
}

std::function<bool(const Step&)> Vocabularies::ends_text() const {
    std::vector<std::shared_ptr<const std::vector<Token>>> eog;
    for (ExpertId expert = 0; expert < of_.size(); ++expert) eog.push_back(one(expert).eog);
    return [eog](const Step& step) { return contains(*eog[step.expert], step.token); };
}

std::vector<std::vector<Token>> Vocabularies::stop_tokens(const std::vector<std::string>& stop) const {
    std::vector<std::vector<Token>> tokens;
    for (ExpertId expert = 0; expert < (alike() ? 1 : of_.size()); ++expert) {
        tokens.emplace_back();
        for (const std::string& text : stop)
            if (const Token token = control_token(vocab(expert), text); token != kNoToken)
                tokens.back().push_back(token);
    }
    return tokens;
}

std::unique_ptr<SharedText> Vocabularies::shared_text(const std::vector<std::vector<Token>>& prompts) const {
    if (alike()) return nullptr;
    std::vector<SharedText::Reader> readers;
    for (ExpertId expert = 0; expert < of_.size(); ++expert)
        readers.push_back({one(expert).tokenizer, prompts[expert]});
    return std::make_unique<SharedText>(std::move(readers));
}

std::vector<Token> Vocabularies::translated(const std::vector<Token>& prompt, ExpertId expert) const {
    if (same(kBase, expert)) return prompt;
    const Vocabulary& of_base = one(kBase).model->vocabulary();
    const bool begins = !prompt.empty() && prompt.front() == of_base.bos;
    std::string bytes = llama::pieces(vocab(kBase), prompt, true, of_base.space_prefix);
    if (begins) bytes.erase(0, piece(vocab(kBase), of_base.bos, true).size());
    // The space that the base's tokenizer put before a text.
    if (!begins && of_base.space_prefix && !bytes.empty() && bytes.front() == ' ') bytes.erase(0, 1);
    const std::string text = take_utf8(bytes, true);
    return tokenize(vocab(expert), text, one(expert).model->vocabulary().add_bos, true);
}

}  // namespace colm::llama
