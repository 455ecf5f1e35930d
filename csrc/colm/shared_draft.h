// Look-ahead across vocabularies: how a text goes on if an expert writes what the base would.
//
// Where an expert has to be asked, the base writes on instead. What it would write, as tokens of the expert,
// is what the expert is expected to say. The expert is then asked about all these places in one batch. From
// its answers the text is written as without look-ahead (docs/decisions/0023), up to the first that was not
// expected. What the base said meanwhile is kept, and used where the text has come to the same tokens. So a
// wrong draft costs time, and changes nothing.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "colm/decision.h"
#include "colm/draft.h"
#include "colm/estimates.h"
#include "colm/sequence.h"
#include "colm/shared_text.h"

namespace colm {

// The samplers of models with another vocabulary than the writer's follow what was written.
void follow(const std::string& bytes, const SharedText& shared, std::size_t n_experts, Deciders& deciders,
            ExpertId writer);

class SharedDraft {
  public:
    struct Limits {
        std::size_t n_drafted;  // tokens that the expert is expected to write
        std::size_t n_places;   // where it is asked
        std::size_t n_tokens;   // of the whole text
        std::size_t n_ctx;      // of each model
    };
    // Where the expert is asked, and what it is expected to say.
    struct Place {
        std::size_t n_before = 0;  // tokens that the draft had there
        Token expected = kNoToken;
        bool drafted = false;    // the draft goes on behind that token
        bool estimated = false;  // it is the first that stands for one of the base's
        double log_odds = 0.0;   // the base's, of that one
    };

    // From a text where `expert` has to be asked about `pending`. The last three are borrowed.
    SharedDraft(const SharedText& shared, const Sequence& sequence, const Deciders& deciders, ExpertId expert,
                const Pending& pending, const Limits& limits, const Draft::EndsText& ends_text,
                const Choices& choices, const Estimates& estimates);

    ExpertId expert() const { return expert_; }
    // The expert's tokens up to the last place, and how many there are before each. The first place is that
    // of the text itself.
    const std::vector<Token>& tokens() const { return tokens_; }
    const std::vector<std::size_t>& counts() const { return counts_; }
    // The expert's answer at the i-th place counts.
    const Place& heard(std::size_t i) {
        n_heard_ = counts_[i];
        return places_[i];
    }
    // Its tokens before the last place that counted.
    std::size_t n_heard() const { return n_heard_; }
    // Whether the expert's tokens up to the i-th place are these.
    bool is_place(std::size_t i, const std::vector<Token>& tokens) const;
    // Tokens of the draft behind the one that is expected at the i-th place.
    std::size_t n_behind(std::size_t i) const;

    // Whether the base goes on with it, from its tokens of the draft.
    bool wants_base() const { return wants_base_; }
    const std::vector<Token>& base_tokens() const { return shared_.tokens(kBase); }
    // What it says. Throws GenerationError, TokenizeError.
    void hear_base(const Prediction& prediction);
    // It does not go on. What the expert is asked about stays.
    void end() { ended_ = true, wants_base_ = false; }
    // What it said behind these tokens; null where it was not asked about them.
    const Prediction* said(const std::vector<Token>& base_tokens);
    // The tokens that it was asked about last, and how many of them the text came to.
    const std::vector<Token>& base_asked() const { return said_.empty() ? none_ : said_.back().tokens; }
    std::size_t n_base_used() const { return n_base_used_; }

    // The probability that all drafted tokens are right, estimated when they were drafted; tokens behind the
    // first of them.
    double confidence() const { return confidence_; }
    std::size_t n_risked() const { return n_behind(0); }

  private:
    enum class Turn { head, expert, proposal };
    // A prediction of the base's with what it borrows from.
    struct Said {
        std::vector<Token> tokens;
        std::vector<float> logits;
        std::vector<Candidate> likeliest;
        std::vector<float> hidden;
        Prediction prediction;
    };

    void go_on();
    bool add_place();
    void expect(Token token, double log_odds);
    void guess();
    void write_expected(Step step);
    void write(const Step& step);
    const Prediction& keep(const Prediction& prediction);

    SharedText shared_;
    Sequence sequence_;  // its calls and times stay empty
    Deciders deciders_;
    ExpertId expert_;
    Limits limits_;
    const Draft::EndsText& ends_text_;
    const Choices& choices_;
    const Estimates& estimates_;

    std::unique_ptr<Decision> decision_;  // of the next token
    Turn turn_ = Turn::head;
    bool wants_base_ = false;
    bool ended_ = false;
    std::deque<Token> expected_;  // of the expert, next
    bool first_ = false;          // of those that stand for a token of the base's
    double log_odds_ = 0.0;       // of that

    std::vector<Token> tokens_;
    std::vector<std::size_t> counts_;
    std::vector<Place> places_;
    std::size_t n_drafted_ = 0;
    std::size_t n_written_ = 0;
    double confidence_ = 1.0;
    std::deque<Said> said_;
    std::size_t n_base_used_ = 0;
    std::size_t n_heard_ = 0;
    const std::vector<Token> none_ = {};
};

}  // namespace colm
