#include "colm/saved_slot.h"

#include <algorithm>

namespace colm {

std::size_t n_common(const std::vector<Token>& a, const std::vector<Token>& b, std::size_t most) {
    const auto end = a.begin() + static_cast<std::ptrdiff_t>(std::min({a.size(), b.size(), most}));
    return static_cast<std::size_t>(std::mismatch(a.begin(), end, b.begin()).first - a.begin());
}

const Checkpoint* last_within(const Checkpoints& checkpoints, std::size_t n_tokens) {
    const Checkpoint* last = nullptr;
    for (const Checkpoint& checkpoint : checkpoints)
        if (checkpoint.n_tokens <= n_tokens) last = &checkpoint;
    return last;
}

std::size_t bytes_of(const Checkpoints& checkpoints) {
    std::size_t n = 0;
    for (const Checkpoint& checkpoint : checkpoints) n += checkpoint.state->size();
    return n;
}

std::size_t SavedSlot::bytes() const {
    return state.size() + held.size() * sizeof(Token) + bytes_of(checkpoints);
}

std::size_t SavedSlot::n_known(const std::vector<Token>& tokens) const {
    return colm::n_known(held, checkpoints, goes_back, tokens);
}

std::size_t n_known(const std::vector<Token>& held, const Checkpoints& checkpoints, bool goes_back,
                    const std::vector<Token>& tokens) {
    const std::size_t n = n_common(held, tokens, tokens.size() - 1);
    if (goes_back || n == held.size()) return n;
    const Checkpoint* last = last_within(checkpoints, n);
    return last == nullptr ? 0 : last->n_tokens;
}

}  // namespace colm
