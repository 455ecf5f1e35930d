// Teacher-forced reading: what a model thought of each token of texts that are already written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "colm/distribution.h"
#include "colm/head.h"
#include "colm/language_model.h"
#include "colm/types.h"

namespace colm {

// A text, and which of its tokens are scored. The first token has nothing before it and cannot be.
struct ScoredText {
    std::vector<Token> tokens;
    std::vector<std::uint8_t> scored;  // as long as tokens; nonzero: score it
};

// One value for each scored token, texts in their order, natural logarithms.
struct Scores {
    std::vector<float> logprob;            // of the token itself
    std::vector<Token> top;                // the likeliest token
    std::vector<float> top_logprob;        // and its log-probability
    std::vector<float> log_odds;           // log p1 - log(1 - p1) of it
    std::vector<float> entropy;            // nats
    std::vector<float> top_k_logprobs;     // [n, k], descending
    std::vector<float> probe_logprob;      // of the tokens that the caller asked about, [n, n_probes]
    std::vector<Token> likeliest;          // [n, k]; kNoToken where fewer are possible
    std::vector<float> likeliest_logprob;  // [n, k], descending
    std::vector<double> defer_logit;       // of the head; empty unless asked for
    std::vector<double> expert_logits;     // z of each expert, [n, n_experts]; as defer_logit
    std::vector<float> hidden;             // [n, n_embd]; empty unless asked for
    std::size_t n_calls = 0;               // batches given to the model
    double decode_s = 0.0;                 // seconds inside the model
};

class Scorer {
  public:
    // Distributions are over the first `n_shared` ids but `blocked`, as they are in the engine.
    Scorer(std::shared_ptr<LanguageModel> model, std::size_t n_shared, std::vector<Token> blocked);

    struct Wanted {
        std::size_t top_k = 0;
        bool hidden = false;
        // Further tokens to report the log-probability of, `n_probes` for each scored token; empty: none.
        // kNoToken has none.
        View<const Token> probes{nullptr, 0};
        std::size_t n_probes = 1;
        std::size_t n_likeliest = 0;
        // What to report z of, with the seed of the random head. Its token can never be chosen.
        const Head* head = nullptr;
        std::uint32_t seed = 0;
        Token excluded = kNoToken;  // another id that is never chosen
    };

    // Reads the texts together. Runs of tokens that are not scored are read without output; runs that are,
    // with an output each.
    // Requires check() to pass. Throws GenerationError (which names text and token) or Cancelled.
    Scores score(const std::vector<ScoredText>& texts, const Wanted& wanted, Interrupt& interrupt);

    // Throws ContextFull where the texts are more, or longer, than the model holds at a time, TokenizeError
    // for a token outside the shared ids, OptionError where a first token is to be scored.
    void check(const std::vector<ScoredText>& texts) const;

    const LanguageModel& model() const { return *model_; }

  private:
    // A run of slots of one text; the last of them may be an output for the token behind it.
    struct Run {
        std::size_t text;
        std::size_t begin;
        std::size_t end;
    };

    void read(const std::vector<ScoredText>& texts, const std::vector<Run>& runs, bool outputs,
              const Wanted& wanted, Interrupt& interrupt, Scores& scores);
    void keep(const ScoredText& text, std::size_t at, std::size_t row, const Output& output,
              const Wanted& wanted, Scores& scores);

    std::shared_ptr<LanguageModel> model_;
    std::size_t n_shared_;
    std::vector<Token> blocked_;
    std::vector<std::size_t> first_row_;  // of each text of the call in progress
    std::vector<std::size_t> next_row_;
};

}  // namespace colm
