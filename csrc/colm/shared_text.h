// A text that models of unlike vocabularies write: its bytes, and each model's own tokens of it. The rule is
// docs/decisions/0023.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "colm/types.h"

namespace colm {

// Where the words of a text end for a vocabulary: at white space behind something that is none, unless one of
// its tokens has these two bytes one behind the other (".\n"). So no token reaches over the end of a word.
class WordEnds {
  public:
    void add_piece(const std::string& piece);
    bool ends(const std::string& text, std::size_t at) const;

  private:
    std::set<std::pair<char, char>> joined_;
};

class Tokenizer {
  public:
    virtual ~Tokenizer() = default;

    // The bytes that a token adds to a text; "" for control tokens.
    virtual std::string piece(Token token) const = 0;
    // The tokens of UTF-8 from the middle of a text: nothing is put around it, and no control token is
    // recognised in it. Throws TokenizeError where the vocabulary cannot write it.
    virtual std::vector<Token> encode(const std::string& text) const = 0;
    virtual const WordEnds& word_ends() const = 0;
};

class SharedText {
  public:
    struct Reader {
        // Experts of one vocabulary have the same object.
        std::shared_ptr<const Tokenizer> tokenizer;
        std::vector<Token> prompt;  // in its own tokens; these never change
    };

    // So many of an expert's last tokens are encoded again where no word begins among them.
    static constexpr std::size_t kMostEncoded = 32;

    // By expert, the base first.
    explicit SharedText(std::vector<Reader> readers);

    // What an expert reads: its prompt and its own tokens of what was written. A character that is not
    // complete is missing.
    const std::vector<Token>& tokens(ExpertId expert) const { return readers_[expert].tokens; }
    // Those behind the prompt.
    View<const Token> written(ExpertId expert) const;
    // The most tokens that an expert has.
    std::size_t longest() const;
    // Who wrote last; the base where nothing was written.
    ExpertId writer() const { return writer_; }
    bool begun() const { return begun_; }
    bool same_vocabulary(ExpertId one, ExpertId other) const {
        return readers_[one].tokenizer == readers_[other].tokenizer;
    }

    // A token of `writer` is written. Returns its bytes. Experts with another vocabulary encode their tail
    // again.
    std::string add(Token token, ExpertId writer);

    // Whether another expert than writer() may write next: it has the same vocabulary, or the text ends
    // neither inside a character nor inside a token of `reader`, where the writer itself would go on with
    // `next` (kNoToken: not known).
    bool may_take_over(ExpertId reader, Token next) const;

    // The tokens that `reader` would have behind its own if the text went on with a token of `writer`, as far
    // as that writes characters.
    std::vector<Token> as_tokens_of(ExpertId reader, Token token, ExpertId writer) const;

    // An expert is asked about all of its tokens. Those that change later are read again.
    void asked(ExpertId expert) { readers_[expert].n_asked = readers_[expert].tokens.size(); }
    std::size_t n_reread(ExpertId expert) const { return readers_[expert].n_reread; }
    // It was asked about these in a draft. Those that the text does not have, beyond the first `n_used`, were
    // read for nothing, and count, too.
    void drafted(ExpertId expert, const std::vector<Token>& asked, std::size_t n_used);
    std::size_t n_readers() const { return readers_.size(); }

  private:
    struct Known {
        std::shared_ptr<const Tokenizer> tokenizer;
        std::vector<Token> tokens;
        std::size_t n_prompt = 0;
        std::vector<std::size_t>
            ends;  // in the text, of each token behind the prompt; kInside: in a character
        std::size_t n_asked = 0;
        std::size_t n_reread = 0;
    };

    // How many tokens behind the prompt stay when `text` is encoded.
    static std::size_t n_kept(const Known& known, const std::string& text);
    static std::size_t begin_of(const Known& known, std::size_t token);
    void encode_tail(Known& known) const;
    // The tokens behind those that a reader has, if the text went on so; nothing where these would change.
    std::optional<std::vector<Token>> behind(const Known& known, const std::string& added) const;

    std::vector<Known> readers_;
    std::string text_;     // UTF-8, behind the prompts
    std::string partial_;  // bytes of a character that is not complete yet
    ExpertId writer_ = kBase;
    bool begun_ = false;
};

}  // namespace colm
