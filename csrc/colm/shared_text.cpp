#include "colm/shared_text.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "colm/text_stream.h"

namespace colm {
namespace {

constexpr std::size_t kInside = std::numeric_limits<std::size_t>::max();

bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

bool begins_space(const std::string& text, std::size_t at) {
    return at > 0 && at < text.size() && is_space(text[at]) && !is_space(text[at - 1]);
}

bool begins_character(const std::string& text, std::size_t at) {
    return at == text.size() || (static_cast<unsigned char>(text[at]) & 0xC0U) != 0x80U;
}

}  // namespace

void WordEnds::add_piece(const std::string& piece) {
    for (std::size_t at = 1; at < piece.size(); ++at)
        if (begins_space(piece, at)) joined_.emplace(piece[at - 1], piece[at]);
}

bool WordEnds::ends(const std::string& text, std::size_t at) const {
    return begins_space(text, at) && joined_.count({text[at - 1], text[at]}) == 0;
}

SharedText::SharedText(std::vector<Reader> readers) {
    for (Reader& reader : readers) {
        Known known;
        known.tokenizer = std::move(reader.tokenizer);
        known.n_prompt = reader.prompt.size();
        known.tokens = std::move(reader.prompt);
        readers_.push_back(std::move(known));
    }
}

View<const Token> SharedText::written(ExpertId expert) const {
    const Known& known = readers_[expert];
    return {known.tokens.data() + known.n_prompt, known.tokens.size() - known.n_prompt};
}

std::size_t SharedText::longest() const {
    std::size_t n = 0;
    for (const Known& known : readers_) n = std::max(n, known.tokens.size());
    return n;
}

std::size_t SharedText::begin_of(const Known& known, std::size_t token) {
    return token == 0 ? 0 : known.ends[token - 1];
}

// Up to where the last word ends: no token reaches over that place, so what comes before is encoded alike
// whatever follows. Also up to a token without bytes, which no text gives back.
std::size_t SharedText::n_kept(const Known& known, const std::string& text) {
    const std::size_t n = known.ends.size();
    for (std::size_t i = n; i > 0; --i) {
        const std::size_t at = begin_of(known, i);
        if (at == kInside) continue;
        const bool silent = begin_of(known, i - 1) == at;
        if (silent || known.tokenizer->word_ends().ends(text, at) || n - i >= kMostEncoded) return i;
    }
    return 0;
}

std::string SharedText::add(Token token, ExpertId writer) {
    const Known& from = readers_[writer];
    std::string bytes = from.tokenizer->piece(token);
    partial_ += bytes;
    const std::string text = take_utf8(partial_, false);
    text_ += text;
    const std::size_t end = partial_.empty() ? text_.size() : kInside;
    for (Known& known : readers_) {
        if (known.tokenizer == from.tokenizer) {
            known.tokens.push_back(token);
            known.ends.push_back(end);
        } else if (!text.empty()) {
            encode_tail(known);
        }
    }
    writer_ = writer;
    begun_ = true;
    return bytes;
}

void SharedText::encode_tail(Known& known) const {
    const std::size_t n = n_kept(known, text_);
    std::size_t at = begin_of(known, n);
    const std::vector<Token> fresh = known.tokenizer->encode(text_.substr(at));
    const auto tail = known.tokens.begin() + static_cast<std::ptrdiff_t>(known.n_prompt + n);
    const std::size_t most = std::min(fresh.size(), static_cast<std::size_t>(known.tokens.end() - tail));
    const auto end = fresh.begin() + static_cast<std::ptrdiff_t>(most);
    const auto n_same =
        static_cast<std::size_t>(std::mismatch(fresh.begin(), end, tail).first - fresh.begin());
    const std::size_t n_read = std::min(known.n_asked, known.n_prompt + n + n_same);
    known.n_reread += known.n_asked - n_read;
    known.n_asked = n_read;

    known.tokens.erase(tail, known.tokens.end());
    known.tokens.insert(known.tokens.end(), fresh.begin(), fresh.end());
    known.ends.resize(n);
    for (const Token token : fresh) {
        at += known.tokenizer->piece(token).size();
        known.ends.push_back(at < text_.size() && begins_character(text_, at) ? at : kInside);
    }
    // Tokens that do not spell the text, as those of a tokenizer that changes it, have no places in it.
    if (at != text_.size())
        std::fill(known.ends.begin() + static_cast<std::ptrdiff_t>(n), known.ends.end(), kInside);
    if (!fresh.empty()) known.ends.back() = text_.size();
}

bool SharedText::may_take_over(ExpertId reader, Token next) const {
    if (same_vocabulary(reader, writer_) || !begun_) return true;
    if (!partial_.empty()) return false;
    if (next == kNoToken) return true;
    std::string bytes = readers_[writer_].tokenizer->piece(next);
    const std::string added = take_utf8(bytes, false);
    if (added.empty()) return true;
    return behind(readers_[reader], added).has_value();
}

std::optional<std::vector<Token>> SharedText::behind(const Known& known, const std::string& added) const {
    const std::string text = text_ + added;
    const std::size_t n = n_kept(known, text);
    const auto n_tail = static_cast<std::ptrdiff_t>(known.ends.size() - n);
    std::vector<Token> fresh = known.tokenizer->encode(text.substr(begin_of(known, n)));
    if (static_cast<std::ptrdiff_t>(fresh.size()) < n_tail ||
        !std::equal(known.tokens.end() - n_tail, known.tokens.end(), fresh.begin()))
        return std::nullopt;
    fresh.erase(fresh.begin(), fresh.begin() + n_tail);
    return fresh;
}

std::vector<Token> SharedText::as_tokens_of(ExpertId reader, Token token, ExpertId writer) const {
    if (same_vocabulary(reader, writer)) return {token};
    std::string bytes = partial_ + readers_[writer].tokenizer->piece(token);
    const std::string added = take_utf8(bytes, false);
    if (added.empty()) return {};
    // Its own tokens need not be those that it would encode.
    std::optional<std::vector<Token>> tokens = behind(readers_[reader], added);
    return tokens ? *tokens : readers_[reader].tokenizer->encode(added);
}

void SharedText::drafted(ExpertId expert, const std::vector<Token>& asked, std::size_t n_used) {
    Known& known = readers_[expert];
    const std::size_t most = std::min(asked.size(), known.tokens.size());
    const auto end = asked.begin() + static_cast<std::ptrdiff_t>(most);
    const auto n_same = static_cast<std::size_t>(
        std::mismatch(asked.begin(), end, known.tokens.begin()).first - asked.begin());
    known.n_reread += asked.size() - std::max(n_same, std::min(n_used, asked.size()));
}

}  // namespace colm
