// A test harness of one header: TEST(name) registers a test, the checks end it by throwing.
#pragma once

#include <cmath>
#include <cstdio>
#include <exception>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace check {

struct Test {
    const char* name;
    void (*run)();
};

inline std::vector<Test>& tests() {
    static std::vector<Test> all;
    return all;
}

struct Registration {
    Registration(const char* name, void (*run)()) { tests().push_back({name, run}); }
};

// Not a std::exception: code under test that catches those must not swallow a failed check.
struct Failure {
    std::string message;
};

[[noreturn]] inline void fail(const char* file, int line, const std::string& message) {
    std::string name = file;
    name = name.substr(name.find_last_of("/\\") + 1);
    throw Failure{name + ":" + std::to_string(line) + ": " + message};
}

// On one line and in ASCII, whatever the bytes.
inline std::string quote(const std::string& text) {
    std::string quoted = "\"";
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        char escaped[8];
        if (byte < 0x20 || byte >= 0x7F || c == '"' || c == '\\') {
            std::snprintf(escaped, sizeof escaped, "\\x%02X", static_cast<unsigned>(byte));
            quoted += escaped;
        } else {
            quoted += c;
        }
    }
    return quoted + "\"";
}

template <typename T, typename = void>
struct IsRange : std::false_type {};
template <typename T>
struct IsRange<T, std::void_t<decltype(std::declval<const T&>().begin(), std::declval<const T&>().end())>>
    : std::true_type {};

template <typename T>
std::string show(const T& value) {
    if constexpr (std::is_convertible_v<const T&, std::string>) {
        return quote(value);
    } else if constexpr (std::is_same_v<T, bool>) {
        return value ? "true" : "false";
    } else if constexpr (std::is_enum_v<T>) {
        return std::to_string(static_cast<long long>(value));
    } else if constexpr (std::is_integral_v<T>) {
        return std::to_string(value);
    } else if constexpr (IsRange<T>::value) {
        std::string all = "[";
        for (const auto& element : value) all += (all.size() > 1 ? ", " : "") + show(element);
        return all + "]";
    } else {
        char digits[32];
        std::snprintf(digits, sizeof digits, "%.9g", static_cast<double>(value));
        return digits;
    }
}

template <typename A, typename B>
bool equal(const A& a, const B& b) {
    if constexpr (std::is_integral_v<A> && std::is_integral_v<B> &&
                  std::is_signed_v<A> != std::is_signed_v<B>) {
        // Compilers warn of comparing signed with unsigned, and a literal is signed.
        if constexpr (std::is_signed_v<A>)
            return a >= 0 && static_cast<std::make_unsigned_t<A>>(a) == b;
        else
            return b >= 0 && a == static_cast<std::make_unsigned_t<B>>(b);
    } else {
        return a == b;
    }
}

template <typename A, typename B>
void check_equal(const char* file, int line, const char* expression, const A& a, const B& b) {
    if (!equal(a, b)) fail(file, line, std::string(expression) + ": " + show(a) + " is not " + show(b));
}

inline void check_near(const char* file, int line, const char* expression, double a, double b,
                       double tolerance) {
    // Equal infinities are near; NaN is near nothing.
    if (a == b || std::fabs(a - b) <= tolerance) return;
    fail(file, line,
         std::string(expression) + ": " + show(a) + " is not within " + show(tolerance) + " of " + show(b));
}

template <typename E, typename F>
void check_throws(const char* file, int line, const char* expression, F&& run, const std::string& part) {
    const std::string what = expression;
    try {
        run();
    } catch (const E& error) {
        if (std::string(error.what()).find(part) == std::string::npos)
            fail(file, line, what + " says " + quote(error.what()) + ", without " + quote(part));
        return;
    } catch (const std::exception& error) {
        fail(file, line, what + " throws another exception: " + quote(error.what()));
    }
    fail(file, line, what + " throws nothing");
}

}  // namespace check

#define TEST(name)                                                             \
    static void test_##name();                                                 \
    static const check::Registration registration_##name{#name, &test_##name}; \
    static void test_##name()

#define CHECK(...)                                                                     \
    do {                                                                               \
        if (!(__VA_ARGS__)) check::fail(__FILE__, __LINE__, #__VA_ARGS__ " is false"); \
    } while (false)
#define CHECK_EQ(a, b) check::check_equal(__FILE__, __LINE__, #a " == " #b, a, b)
#define CHECK_NEAR(a, b, tolerance) check::check_near(__FILE__, __LINE__, #a " ~ " #b, a, b, tolerance)
#define CHECK_THROWS(error, expression, part) \
    check::check_throws<error>(__FILE__, __LINE__, #expression, [&] { static_cast<void>(expression); }, part)
