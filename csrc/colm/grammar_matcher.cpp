#include "colm/grammar_matcher.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "colm/error.h"
#include "colm/grammar_automaton.h"

namespace colm {
namespace {

constexpr std::uint32_t kNowhere = GrammarAutomaton::kNowhere;
constexpr std::uint32_t kAscii = GrammarAutomaton::kAscii;
// The least value of a character with so many bytes; values below it have a shorter form.
constexpr std::array<char32_t, 5> kLeastOfLength{0, 0, 0x80, 0x800, 0x10000};

}  // namespace

GrammarMatcher::GrammarMatcher(std::shared_ptr<const Grammar> grammar)
    : automaton_(std::make_shared<GrammarAutomaton>(std::move(grammar))), state_(automaton_->begin()) {}

void GrammarMatcher::begin_step() { automaton_->begin_step(); }

bool GrammarMatcher::may_end() const { return partial_.n_left == 0 && automaton_->may_end(state_); }

// Bytes that are no UTF-8 lead nowhere.
std::uint32_t GrammarMatcher::read(std::uint32_t state, Partial& partial, std::string_view bytes) {
    for (const char byte : bytes) {
        const auto c = static_cast<unsigned char>(byte);
        if (partial.n_left == 0) {
            if (c < kAscii) {
                state = automaton_->after(state, c);
                if (state == kNowhere) return state;
                continue;
            }
            if (c < 0xC2 || c > 0xF4) return kNowhere;
            partial.length = c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
            partial.n_left = static_cast<std::uint8_t>(partial.length - 1);
            partial.value = c & (0xFFU >> (partial.length + 1));
            continue;
        }
        if ((c & 0xC0) != 0x80) return kNowhere;
        partial.value = partial.value << 6 | (c & 0x3FU);
        if (--partial.n_left > 0) continue;
        if (partial.value < kLeastOfLength[partial.length] || partial.value > 0x10FFFF) return kNowhere;
        state = automaton_->after(state, partial.value);
        if (state == kNowhere) return state;
    }
    if (partial.n_left == 0) return state;
    const unsigned shift = 6U * partial.n_left;
    const char32_t first = partial.value << shift;
    const char32_t low = std::max(first, kLeastOfLength[partial.length]);
    const char32_t high = first | ((char32_t{1} << shift) - 1);
    return low <= high && automaton_->meets(state, low, high) ? state : kNowhere;
}

bool GrammarMatcher::allows(Token token, std::string_view bytes) {
    const bool whole = partial_.n_left == 0;
    if (whole && automaton_->has_tokens(state_) && automaton_->means(state_, token)) return true;
    if (bytes.empty()) return false;
    Partial partial = partial_;
    return read(state_, partial, bytes) != kNowhere;
}

bool GrammarMatcher::accept(Token token, std::string_view bytes) {
    Partial partial = partial_;
    std::uint32_t next = bytes.empty() ? kNowhere : read(state_, partial, bytes);
    const bool whole = partial_.n_left == 0;
    if (whole && automaton_->has_tokens(state_) && automaton_->means(state_, token)) {
        // Inside a character no other token is read as such.
        if (next == kNowhere) partial = Partial{};
        if (partial.n_left == 0) next = automaton_->after_token(state_, token, next);
    }
    if (next == kNowhere) return false;
    partial_ = partial;
    state_ = next;
    if (automaton_->memory() <= kMostMemory) return true;
    // What led here is not needed again; only a copy may still know it.
    automaton_ = automaton_->only(state_);
    if (automaton_->memory() > kMostMemory / 2)
        throw GrammarError("the grammar has more than " + std::to_string(kMostMemory / 2) +
                               " places to remember of this text, which is the limit; make it less ambiguous",
                           {{"value", static_cast<std::int64_t>(automaton_->memory())},
                            {"limit", static_cast<std::int64_t>(kMostMemory / 2)}});
    return true;
}

}  // namespace colm
