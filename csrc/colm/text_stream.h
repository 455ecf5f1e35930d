// From token pieces (bytes) to whole UTF-8 text, ending before the first stop string.
#pragma once

#include <cstddef>
#include <deque>
#include <string>
#include <vector>

#include "colm/types.h"

namespace colm {

// A step and the text that became certain with it. A character spread over several tokens belongs to the
// last.
struct StreamedStep {
    Step step;
    std::string text;  // valid UTF-8
};

class TextStream {
  public:
    // Throws OptionError for an empty stop string.
    explicit TextStream(std::vector<std::string> stop);

    // Adds a step whose token stands for `piece`. Steps leave in order through pop(), each once its text can
    // no longer turn out to be part of a stop string.
    void push(Step step, const std::string& piece);

    // No more steps come: what was held back is let go. A character cut short becomes U+FFFD.
    void finish();

    // Whether a stop string has appeared. Text from its first byte on is never let go, and push() must not
    // follow.
    bool stopped() const { return stopped_; }

    bool empty() const { return ready_.empty(); }
    // Requires !empty().
    StreamedStep pop();

  private:
    struct Held {
        Step step;
        std::size_t end;  // offset in text_ behind what this step's piece completed
        bool incomplete;  // its piece ends inside a character
    };

    void decode(const std::string& piece, bool last);
    std::size_t find_stop() const;
    // Length of the longest end of text_ that may be the beginning of a stop string.
    std::size_t held_back() const;
    void release(std::size_t certain);

    std::vector<std::string> stop_;
    std::string partial_;  // bytes of a character that is not complete yet
    std::string text_;     // decoded, not let go
    std::deque<Held> held_;
    std::deque<StreamedStep> ready_;
    bool stopped_ = false;
};

// Decodes as much of `bytes` as is complete and removes it from there; each maximal invalid part becomes one
// U+FFFD, as in Python's errors="replace". With `last`, an incomplete end is invalid too.
std::string take_utf8(std::string& bytes, bool last);

}  // namespace colm
