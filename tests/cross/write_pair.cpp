// Writes a text with a pair, on a system that has no Python for it. tools/cross runs it in an emulator.
//   write_pair BASE ASSISTANT HEAD PROMPT THRESHOLD MAX_TOKENS LOOKAHEAD
// Greedy. Prints who wrote each token (0: the base) and its id.
#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "colm/stream.h"
#include "llama/head_file.h"
#include "llama/pair.h"

namespace {

using colm::llama::Member;
using colm::llama::Pair;

Member member(const std::string& name, const std::string& path) {
    Member made{name, {}};
    made.options.path = path;
    made.options.n_ctx = 512;
    made.options.n_gpu_layers = 0;
    made.options.flash_attn = 0;
    return made;
}

void write(const std::vector<std::string>& given) {
    Pair pair({member("base", given[0]), member("assistant", given[1])});
    colm::GenerationOptions options;
    options.sampling.temperature = 0.0f;
    options.policy.threshold = std::stod(given[4]);
    options.max_tokens = std::stoi(given[5]);
    options.lookahead = std::stoi(given[6]);
    std::vector<colm::Token> prompt = pair.tokenize(given[3], true, true);
    colm::Writing::OwnPrompts own;
    if (!pair.vocabularies().alike()) own[1] = pair.tokenize(given[3], true, true, 1);
    colm::Stream stream(pair.loop(), {});
    stream.add(pair.write(std::move(prompt), colm::llama::read_head(given[2]), options, std::move(own)),
               options.lookahead);
    while (const auto event = stream.next()) {
        if (!event->step) break;
        const colm::Step& step = event->step->step;
        std::printf("%u %d\n", static_cast<unsigned>(step.expert), static_cast<int>(step.token));
    }
}

}  // namespace

int main(int argc, char** argv) {
    const std::vector<std::string> given(argv + 1, argv + argc);
    if (given.size() != 7) {
        std::fprintf(stderr, "write_pair BASE ASSISTANT HEAD PROMPT THRESHOLD MAX_TOKENS LOOKAHEAD\n");
        return 2;
    }
    try {
        write(given);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
