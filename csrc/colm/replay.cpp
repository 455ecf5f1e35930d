#include "colm/replay.h"

#include <chrono>
#include <string>

#include "colm/error.h"

namespace colm {

std::vector<double> replay(const std::vector<Replayed>& models, const std::vector<DecodeCall>& calls,
                           std::size_t n_texts, Interrupt& interrupt) {
    for (const Replayed& of : models) of.model->clear();
    std::vector<std::size_t> n_held(models.size(), 0);
    std::vector<double> seconds;
    for (const DecodeCall& call : calls) {
        const auto position = static_cast<std::size_t>(call.position);
        const auto n_tokens = static_cast<std::size_t>(call.n_tokens);
        if (call.expert >= models.size() || call.position < 0 || call.n_tokens < 1 ||
            position > n_held[call.expert] || position + n_tokens > models[call.expert].tokens->size() ||
            n_tokens * n_texts > models[call.expert].model->n_batch())
            throw OptionError("decode " + std::to_string(seconds.size()) + " of " +
                              std::to_string(call.n_tokens) + " tokens at position " +
                              std::to_string(call.position) + " does not follow the ones before it, of " +
                              std::to_string(models.front().tokens->size()) +
                              " tokens, or is more than a batch for " + std::to_string(n_texts) + " texts");
        LanguageModel& model = *models[call.expert].model;
        const std::vector<Token>& tokens = *models[call.expert].tokens;
        std::size_t& held = n_held[call.expert];
        std::vector<BatchToken> batch;
        for (std::size_t i = 0; i < n_tokens * n_texts; ++i) {
            const std::size_t at = position + i % n_tokens;
            const bool last = at + 1 == position + n_tokens;
            batch.push_back({tokens[at], at, i / n_tokens, call.hidden || (call.outputs && last)});
        }
        const auto start = std::chrono::steady_clock::now();
        for (std::size_t text = 0, before = held; text < n_texts && position < before; ++text)
            held = model.rewind(text, position);
        if (held < position)
            throw OptionError("a model that cannot go back cannot repeat a decode at position " +
                              std::to_string(position));
        model.eval_batch({batch.data(), batch.size()}, call.hidden, interrupt);
        if (call.outputs) model.output(batch.size() - 1);
        seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
        held = position + n_tokens;
    }
    for (const Replayed& of : models) of.model->clear();
    return seconds;
}

}  // namespace colm
