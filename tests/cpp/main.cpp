// colm_tests [--list | NAME...]: lists, or runs, the tests. One line a test; fails where one of them does.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <set>
#include <string>
#include <vector>

#include "check.h"

namespace {

// Empty where the test passed.
std::string run(const check::Test& test) {
    try {
        test.run();
    } catch (const check::Failure& failure) {
        return failure.message;
    } catch (const std::exception& error) {
        return std::string("threw ") + check::quote(error.what());
    } catch (...) {
        return "threw something that is no exception";
    }
    return {};
}

}  // namespace

int main(int argc, char** argv) {
    // Whatever was printed must be there when a sanitizer ends the process.
    std::setvbuf(stdout, nullptr, _IONBF, 0);
    std::vector<check::Test> tests = check::tests();
    // The order in which files register their tests is the linker's.
    std::sort(tests.begin(), tests.end(),
              [](const check::Test& a, const check::Test& b) { return std::strcmp(a.name, b.name) < 0; });
    std::set<std::string> names;
    for (const check::Test& test : tests) {
        if (!names.insert(test.name).second) {
            std::printf("two tests are named %s\n", test.name);
            return 2;
        }
    }

    const std::set<std::string> wanted(argv + 1, argv + argc);
    if (wanted.count("--list") > 0) {
        for (const std::string& name : names) std::printf("%s\n", name.c_str());
        return 0;
    }
    for (const std::string& name : wanted) {
        if (names.count(name) == 0) {
            std::printf("there is no test %s\n", name.c_str());
            return 2;
        }
    }

    int n_failed = 0;
    for (const check::Test& test : tests) {
        if (!wanted.empty() && wanted.count(test.name) == 0) continue;
        const std::string failure = run(test);
        if (failure.empty()) {
            std::printf("ok %s\n", test.name);
        } else {
            std::printf("FAILED %s: %s\n", test.name, failure.c_str());
            ++n_failed;
        }
    }
    return n_failed == 0 ? 0 : 1;
}
