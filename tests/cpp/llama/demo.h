// The demo pair of the package, and texts that it writes.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "colm/stream.h"
#include "llama/head_file.h"
#include "llama/pair.h"

inline const std::string kDemo = COLM_DATA "/demo/";

inline std::shared_ptr<colm::llama::Pair> load_demo(const std::string& base = kDemo + "base.gguf",
                                                    std::size_t n_slots = 1) {
    std::vector<colm::llama::Member> members(2);
    members[0] = {"base", {}};
    members[1] = {"assistant", {}};
    members[0].options.path = base;
    members[1].options.path = kDemo + "assistant.gguf";
    for (auto& member : members) member.options.n_ctx = 512;
    return std::make_shared<colm::llama::Pair>(members, n_slots);
}

inline colm::GenerationOptions greedy() {
    colm::GenerationOptions options;
    options.sampling.temperature = 0.0f;
    options.max_tokens = 60;
    return options;
}

// As the chat template of the base has it.
inline std::string asked(const std::string& problem) { return "Problem: " + problem + "\nSolution:"; }

// The solutions of problems, written at a time.
inline std::vector<std::string> solve(colm::llama::Pair& pair, const std::vector<std::string>& problems,
                                      const colm::GenerationOptions& options) {
    const auto head = colm::llama::read_head(kDemo + "head.gguf");
    colm::Stream stream(pair.loop(problems.size()), {});
    std::vector<std::shared_ptr<colm::Text>> texts;
    for (const std::string& problem : problems)
        texts.push_back(stream.add(pair.write(pair.tokenize(asked(problem), true, true), head, options),
                                   options.lookahead));
    std::vector<std::string> solutions(problems.size());
    while (const auto event = stream.next()) {
        if (event->text->error()) std::rethrow_exception(event->text->error());
        if (!event->step) continue;
        for (std::size_t i = 0; i < texts.size(); ++i)
            if (texts[i] == event->text) solutions[i] += event->step->text;
    }
    return solutions;
}
