#include "colm/vocabulary.h"

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "colm/error.h"
#include "colm/shown.h"

using colm::fingerprint;
using colm::shared_vocabulary;
using colm::VocabMismatch;
using colm::Vocabulary;

namespace {

// The last `n_padding` texts stand for no token.
Vocabulary vocabulary_of(std::vector<std::string> texts, std::size_t n_padding = 0) {
    Vocabulary v;
    v.type = "BPE";
    v.unused.assign(texts.size(), 0);
    for (std::size_t i = texts.size() - n_padding; i < texts.size(); ++i) v.unused[i] = 1;
    v.texts = std::move(texts);
    return v;
}

// The mismatch of the two, or a failure.
VocabMismatch mismatch(const Vocabulary& base, const Vocabulary& assistant) {
    try {
        shared_vocabulary(base, assistant);
    } catch (const VocabMismatch& error) {
        return error;
    }
    throw std::logic_error("no mismatch");
}

std::int64_t token_id(const VocabMismatch& error) {
    return std::get<std::int64_t>(error.fields().at(0).second);
}
std::string text(const VocabMismatch& error, std::size_t i) {
    return std::get<std::string>(error.fields().at(i).second);
}

}  // namespace

TEST_CASE("vocabulary: size without padding") {
    REQUIRE_EQ(vocabulary_of({}).size_without_padding(), 0);
    REQUIRE_EQ(vocabulary_of({"a", "b"}).size_without_padding(), 2);
    REQUIRE_EQ(vocabulary_of({"a", "b", "c"}, 2).size_without_padding(), 1);
    REQUIRE_EQ(vocabulary_of({"a", "b"}, 2).size_without_padding(), 0);
    Vocabulary v = vocabulary_of({"a", "b", "c", "d"}, 1);
    v.unused[1] = 1;  // a hole inside is no padding
    REQUIRE_EQ(v.size_without_padding(), 3);
}

TEST_CASE("vocabulary: shared is the shorter") {
    const Vocabulary v = vocabulary_of({"a", "b", "c"});
    REQUIRE_EQ(shared_vocabulary(v, v), 3);
    REQUIRE_EQ(shared_vocabulary(v, vocabulary_of({"a", "b", "c", "<added>"})), 3);
    REQUIRE_EQ(shared_vocabulary(vocabulary_of({"a", "b", "c", "<added>"}), v), 3);
    REQUIRE_EQ(shared_vocabulary(v, vocabulary_of({"a", "b", "c", "[PAD3]", "[PAD4]"}, 2)), 3);
    REQUIRE_EQ(shared_vocabulary(vocabulary_of({"a", "b", "[PAD2]"}, 1), vocabulary_of({"a", "b", "c"})), 2);
    REQUIRE_EQ(shared_vocabulary(vocabulary_of({"a", "b", "[PAD2]"}, 1),
                                 vocabulary_of({"a", "b", "<pad2>", "<pad3>"}, 2)),
               2);
}

TEST_CASE("shown: texts are short and plain") {
    using colm::shown;
    REQUIRE_EQ(shown(""), "\"\"");
    REQUIRE_EQ(shown("a\xc3\xbc"), "\"a\xc3\xbc\"");
    REQUIRE_EQ(shown(std::string("a\n\0\x7f", 4)), "\"a\\x0a\\x00\\x7f\"");
    REQUIRE_EQ(shown(std::string(200, 'x')), "\"" + std::string(200, 'x') + "\"");
    REQUIRE_EQ(shown(std::string(1000, 'x')), "\"" + std::string(200, 'x') + "...\"");
    // A character of two bytes across the end is left out as a whole.
    REQUIRE_EQ(shown(std::string(199, 'x') + "\xc3\xbc"), "\"" + std::string(199, 'x') + "...\"");
    REQUIRE_EQ(shown(std::string(300, '\x80')).size() <= 205, true);
}

TEST_CASE("vocabulary: other texts are a mismatch") {
    const VocabMismatch error = mismatch(vocabulary_of({"a", "b", "c"}), vocabulary_of({"a", "x", "y", "z"}));
    REQUIRE_EQ(token_id(error), 1);
    REQUIRE_EQ(text(error, 1), "b");
    REQUIRE_EQ(text(error, 2), "x");
    REQUIRE_EQ(error.fields().at(0).first, "token_id");
    REQUIRE_EQ(error.fields().at(1).first, "base_text");
    REQUIRE_EQ(error.fields().at(2).first, "assistant_text");
    REQUIRE_EQ(std::string(error.kind()), "VocabMismatch");
    REQUIRE_THROWS_WITH_AS(shared_vocabulary(vocabulary_of({"a", "b"}), vocabulary_of({"a", "x"})),
                           doctest::Contains("token 1 is \"b\" for the base and \"x\" for the assistant"),
                           VocabMismatch);
    // The last shared id counts too.
    REQUIRE_EQ(token_id(mismatch(vocabulary_of({"a", "b", "c"}), vocabulary_of({"a", "b", "C", "d"}))), 2);
}

TEST_CASE("vocabulary: other types are a mismatch") {
    Vocabulary spm = vocabulary_of({"a"});
    spm.type = "SPM";
    const VocabMismatch error = mismatch(vocabulary_of({"a"}), spm);
    REQUIRE_EQ(token_id(error), -1);
    REQUIRE_EQ(text(error, 1), "BPE");
    REQUIRE_EQ(text(error, 2), "SPM");
}

TEST_CASE("vocabulary: added tokens have to agree") {
    const Vocabulary plain = vocabulary_of({"a", "b", "c"});
    Vocabulary bos = plain;
    bos.bos = 1;
    REQUIRE_EQ(shared_vocabulary(plain, bos), 3);  // a BOS that is not added does not matter
    bos.add_bos = true;
    REQUIRE_THROWS_WITH_AS(shared_vocabulary(plain, bos),
                           doctest::Contains("the base's tokenizer adds no token before the text; the "
                                             "assistant's adds token 1 before the text"),
                           VocabMismatch);
    REQUIRE_EQ(shared_vocabulary(bos, bos), 3);
    Vocabulary other = bos;
    other.bos = 2;
    REQUIRE_THROWS_WITH_AS(shared_vocabulary(bos, other), doctest::Contains("adds token 2"), VocabMismatch);

    Vocabulary eos = plain;
    eos.eos = 2;
    REQUIRE_EQ(shared_vocabulary(plain, eos), 3);
    eos.add_eos = true;  // not done, since texts are written on
    REQUIRE_EQ(shared_vocabulary(eos, plain), 3);
}

TEST_CASE("vocabulary: end of generation may differ") {
    Vocabulary base = vocabulary_of({"a", "b"});
    Vocabulary assistant = base;
    base.eog = {1};
    assistant.eog = {0, 1};
    REQUIRE_EQ(shared_vocabulary(base, assistant), 2);
}

TEST_CASE("vocabulary: padding inside is unused by both") {
    Vocabulary base = vocabulary_of({"a", "b", "c", "d", "e"});
    Vocabulary assistant = base;
    base.unused = {0, 1, 1, 0, 1};
    assistant.unused = {0, 1, 0, 1, 1};
    REQUIRE_EQ(padding_inside(base, assistant, 4), std::vector<colm::Token>{1});
    REQUIRE_EQ(padding_inside(base, assistant, 5), (std::vector<colm::Token>{1, 4}));
    REQUIRE(padding_inside(base, assistant, 0).empty());
}

TEST_CASE("vocabulary: fingerprint is fnv1a") {
    // From Python: h = 0xcbf29ce484222325; for b in b"BPE\xffa\xffbc\xff": h = ((h ^ b) * 0x100000001b3) %
    // 2**64
    REQUIRE_EQ(fingerprint(vocabulary_of({"a", "bc"})), "e0b040c9e4e09c85");
    REQUIRE_EQ(fingerprint(vocabulary_of({"a", "bc", "[PAD]"}, 1)), "e0b040c9e4e09c85");
    REQUIRE_EQ(fingerprint(vocabulary_of({})), "3fd205a75f617e93");
}

TEST_CASE("vocabulary: fingerprint sees every difference") {
    const std::string one = fingerprint(vocabulary_of({"ab", "c"}));
    REQUIRE(one != fingerprint(vocabulary_of({"a", "bc"})));
    REQUIRE(one != fingerprint(vocabulary_of({"ab", "c", ""})));
    REQUIRE(one != fingerprint(vocabulary_of({"c", "ab"})));
    Vocabulary spm = vocabulary_of({"ab", "c"});
    spm.type = "SPM";
    REQUIRE(one != fingerprint(spm));
    Vocabulary same = vocabulary_of({"ab", "c"});
    same.add_bos = true;
    same.eog = {1};
    REQUIRE_EQ(one, fingerprint(same));
    REQUIRE_EQ(one.size(), 16);
}
