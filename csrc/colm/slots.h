// Which texts may be computed: a loop has a few slots, and more texts may want one.
//
// A text that has a slot keeps it while somebody waits for its tokens. Between two tokens it keeps it too,
// because its reader usually returns at once: another text would displace its KV cache, and both experts
// would read it again. But a reader may be slow, or may never return. Once others have waited for the reader
// about as long as reading the text takes, the text loses its slot and queues when it is next wanted. At most
// half of the time is then lost, whatever the reader does.
#pragma once

#include <chrono>
#include <cstddef>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "colm/text.h"

namespace colm {

class Slots {
  public:
    using Clock = std::chrono::steady_clock;

    // The total time that others wait for the reader of a text before the text loses its slot.
    static constexpr Clock::duration kLeastPatience = std::chrono::milliseconds(20);
    static constexpr Clock::duration kMostPatience = std::chrono::seconds(1);

    explicit Slots(std::size_t n) : holders_(n) {}

    // This thread waits for a token of the text, which queues where it has no slot. `first`: before all
    // others, because a text that already waits cannot go on before this one does (a signal handler). Any
    // thread.
    void want(const std::shared_ptr<Text>& text, bool first = false);
    // Nobody waits for the text any more, or for now. Any thread.
    void rest(Text& text);

    // The text that has waited longest for a slot; null if none waits.
    std::shared_ptr<Text> first_waiting() const;
    // The slots that it may have: those of no text, else the one whose text has lost it. None: then one may
    // be had after pause().
    std::vector<std::size_t> free_for(const Text& text) const;
    // Whether a text wants a slot and there is none for it.
    bool must_wait(const Text& text) const;
    // Gives a text its slot. What had it before queues when it is next wanted, or now: its reader may have
    // returned since free_for() said that nobody waits for it.
    void give(std::size_t slot, const std::shared_ptr<Text>& text);
    // Takes the text from the queue, unless it has a slot. Whether it was in the queue.
    bool leave_queue(Text& text);
    // Takes the text from its slot and from the queue.
    void leave(Text& text);

    std::size_t size() const { return holders_.size(); }
    // Whether somebody waits for the text's next token.
    bool wanted(const Text& text) const;
    // How long until a slot becomes free if no reader returns; nothing where no text waits.
    std::optional<Clock::duration> pause() const;

  private:
    Clock::duration patience_left(const Text& holder, const Text& waiting, Clock::time_point now) const;

    mutable std::mutex mutex_;
    std::vector<std::shared_ptr<Text>> holders_;  // by slot; null where none
    std::list<std::shared_ptr<Text>> queue_;
};

}  // namespace colm
