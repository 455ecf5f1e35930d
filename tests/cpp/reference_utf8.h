// UTF-8 by its definition: characters as bytes, and bytes as Python's decode(errors="replace") reads them.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <map>
#include <string>

namespace reference {

inline const std::string kReplacement = "\xEF\xBF\xBD";

inline std::string bytes(std::initializer_list<int> values) {
    std::string all;
    for (const int value : values) all += static_cast<char>(static_cast<unsigned char>(value));
    return all;
}

inline std::string encode(unsigned code) {
    const auto tail = [code](int shift) { return static_cast<int>(0x80U | ((code >> shift) & 0x3FU)); };
    if (code < 0x80) return bytes({static_cast<int>(code)});
    if (code < 0x800) return bytes({static_cast<int>(0xC0U | (code >> 6)), tail(0)});
    if (code < 0x10000) return bytes({static_cast<int>(0xE0U | (code >> 12)), tail(6), tail(0)});
    return bytes({static_cast<int>(0xF0U | (code >> 18)), tail(12), tail(6), tail(0)});
}

// Every beginning of a character that lacks at least one byte, found by encoding the characters, and the
// length that the character has.
inline const std::map<std::string, std::size_t>& beginnings() {
    static const std::map<std::string, std::size_t> all = [] {
        std::map<std::string, std::size_t> found;
        // 64 neighbours differ in their last byte only.
        for (unsigned code = 0x80; code < 0x110000; code += 64) {
            if (code >= 0xD800 && code < 0xE000) continue;
            const std::string character = encode(code);
            for (std::size_t n = 1; n < character.size(); ++n)
                found[character.substr(0, n)] = character.size();
        }
        return found;
    }();
    return all;
}

// bytes.decode(errors="replace"), as Unicode puts it: each longest beginning of a character becomes one
// U+FFFD.
inline std::string decode(const std::string& input) {
    std::string text;
    for (std::size_t i = 0; i < input.size();) {
        if (static_cast<unsigned char>(input[i]) < 0x80) {
            text += input[i++];
            continue;
        }
        std::size_t n = 0;
        std::size_t length = 0;
        while (i + n < input.size()) {
            const auto longer = beginnings().find(input.substr(i, n + 1));
            if (longer == beginnings().end()) break;
            length = longer->second;
            ++n;
        }
        // Any byte of the form 10xxxxxx is right in the last place.
        const bool whole = n > 0 && n + 1 == length && i + n < input.size() &&
                           (static_cast<unsigned char>(input[i + n]) & 0xC0U) == 0x80U;
        text += whole ? input.substr(i, length) : kReplacement;
        i += whole ? length : std::max<std::size_t>(n, 1);
    }
    return text;
}

}  // namespace reference
