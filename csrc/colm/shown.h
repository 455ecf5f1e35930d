// A text that a caller or a file gave, as a message shows it.
#pragma once

#include <cstddef>
#include <string>

namespace colm {

// The text in quotes, cut at 200 bytes (never within a UTF-8 character), control characters as \xNN.
inline std::string shown(const std::string& text) {
    constexpr std::size_t kMost = 200;
    std::size_t end = text.size() <= kMost ? text.size() : kMost;
    while (end < text.size() && end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) --end;
    constexpr char kDigits[] = "0123456789abcdef";
    std::string out = "\"";
    for (std::size_t i = 0; i < end; ++i) {
        const auto byte = static_cast<unsigned char>(text[i]);
        if (byte >= 0x20U && byte != 0x7FU) {
            out += text[i];
            continue;
        }
        out += "\\x";
        out += kDigits[byte >> 4U];
        out += kDigits[byte & 0xFU];
    }
    return out + (end < text.size() ? "...\"" : "\"");
}

}  // namespace colm
