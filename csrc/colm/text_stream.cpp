#include "colm/text_stream.h"

#include <algorithm>
#include <utility>

#include "colm/error.h"

namespace colm {
namespace {

constexpr const char* kReplacement = "\xEF\xBF\xBD";

struct Lead {
    std::size_t length;       // of the whole character; 0 for a byte that cannot begin one
    unsigned char low, high;  // bounds of the second byte (they shut out overlong forms and surrogates)
};

Lead lead_of(unsigned char byte) {
    if (byte < 0x80) return {1, 0, 0};
    if (byte >= 0xC2 && byte <= 0xDF) return {2, 0x80, 0xBF};
    if (byte == 0xE0) return {3, 0xA0, 0xBF};
    if (byte == 0xED) return {3, 0x80, 0x9F};
    if (byte >= 0xE1 && byte <= 0xEF) return {3, 0x80, 0xBF};
    if (byte == 0xF0) return {4, 0x90, 0xBF};
    if (byte >= 0xF1 && byte <= 0xF3) return {4, 0x80, 0xBF};
    if (byte == 0xF4) return {4, 0x80, 0x8F};
    return {0, 0, 0};
}

}  // namespace

std::string take_utf8(std::string& bytes, bool last) {
    std::string text;
    std::size_t i = 0;
    while (i < bytes.size()) {
        const Lead lead = lead_of(static_cast<unsigned char>(bytes[i]));
        std::size_t n = 1;  // how many bytes of the character are there and valid
        while (n < lead.length && i + n < bytes.size()) {
            const auto byte = static_cast<unsigned char>(bytes[i + n]);
            const bool valid = n == 1 ? byte >= lead.low && byte <= lead.high : byte >= 0x80 && byte <= 0xBF;
            if (!valid) break;
            ++n;
        }
        if (lead.length > 0 && n == lead.length) {
            text.append(bytes, i, n);
        } else if (lead.length > 0 && i + n == bytes.size() && !last) {
            break;  // the rest may still come
        } else {
            text += kReplacement;
        }
        i += n;
    }
    bytes.erase(0, i);
    return text;
}

TextStream::TextStream(std::vector<std::string> stop) : stop_(std::move(stop)) {
    for (const std::string& s : stop_)
        if (s.empty()) throw OptionError("a stop string is empty; it would end every text at once");
}

void TextStream::push(Step step, const std::string& piece) {
    partial_ += piece;
    text_ += take_utf8(partial_, false);
    // Bytes of earlier steps are all decoded once what is left over came with this piece.
    if (partial_.size() <= piece.size())
        for (Held& held : held_) held.incomplete = false;
    held_.push_back({std::move(step), text_.size(), !partial_.empty()});
    const std::size_t at = find_stop();
    if (at != std::string::npos) {
        stopped_ = true;
        text_.resize(at);
        partial_.clear();
        release(at);
    } else {
        release(text_.size() - held_back());
    }
}

void TextStream::finish() {
    if (!stopped_) {
        text_ += take_utf8(partial_, true);
        if (!held_.empty()) held_.back().end = text_.size();
        for (Held& held : held_) held.incomplete = false;
    }
    release(text_.size());
}

StreamedStep TextStream::pop() {
    StreamedStep front = std::move(ready_.front());
    ready_.pop_front();
    return front;
}

std::size_t TextStream::find_stop() const {
    // The one that is complete first, and of those the one that began first: so it does not matter how the
    // text was split into tokens.
    std::size_t first = std::string::npos;
    std::size_t first_end = std::string::npos;
    for (const std::string& s : stop_) {
        const std::size_t at = text_.find(s);
        if (at == std::string::npos) continue;
        const std::size_t end = at + s.size();
        if (end > first_end || (end == first_end && at > first)) continue;
        first = at;
        first_end = end;
    }
    return first;
}

std::size_t TextStream::held_back() const {
    std::size_t longest = 0;
    for (const std::string& s : stop_) {
        for (std::size_t n = std::min(s.size() - 1, text_.size()); n > longest; --n) {
            if (text_.compare(text_.size() - n, n, s, 0, n) == 0) longest = n;
        }
    }
    return longest;
}

void TextStream::release(std::size_t certain) {
    std::size_t begin = 0;
    while (!held_.empty()) {
        // A token cut by a stop string keeps the part before it; those behind it are let go without text,
        // because they were generated all the same.
        const std::size_t end = stopped_ ? std::min(held_.front().end, certain) : held_.front().end;
        if (!stopped_ && (end > certain || held_.front().incomplete)) break;
        ready_.push_back({std::move(held_.front().step), text_.substr(begin, end - begin)});
        held_.pop_front();
        begin = end;
    }
    text_.erase(0, begin);
    for (Held& held : held_) held.end -= begin;
}

}  // namespace colm
