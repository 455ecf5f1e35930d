// What an option is: a field with a default, and the values that it may have. A table of lines
// OPTION(type, name, default, range) becomes a struct, its check, and what Python sees.
#pragma once

#include <array>
#include <cstddef>
#include <cstdio>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>

#include "colm/error.h"

namespace colm {

// The numbers from `least` to `most`, without `least` itself where `is_open`. Never infinity or NaN.
struct Range {
    double least;
    double most;
    bool is_open = false;

    bool holds(double value) const { return (is_open ? value > least : value >= least) && value <= most; }
};

// The largest float stands for "no limit": an int has its own.
inline constexpr double kNoLimit = std::numeric_limits<float>::max();
constexpr Range from(double least, double most = kNoLimit) { return {least, most}; }
constexpr Range above(double least, double most = kNoLimit) { return {least, most, true}; }
inline constexpr Range any_number{-kNoLimit, kNoLimit};

// Of options that are no numbers, or whose values only their user can judge.
struct NoRange {};
inline constexpr NoRange no_range{};

// The names of an enum's values, in their order.
template <typename Enum, std::size_t n>
struct Names {
    std::array<const char*, n> all;
};

#define COLM_OPTION_FIELD(type, name, value, range) type name = value;
#define COLM_OPTION_VISIT(type, name, value, range) visit(#name, self.name, range);
// The fields of a table, and `each(options, visit)`, which calls visit(name, field, range) for each.
#define COLM_OPTIONS(TABLE)                       \
    TABLE(COLM_OPTION_FIELD)                      \
    template <typename Self, typename Visit>      \
    static void each(Self& self, Visit&& visit) { \
        TABLE(COLM_OPTION_VISIT)                  \
    }

namespace detail {

// Shortest decimal that names the value the user typed ("0.95", not "0.949999988").
inline std::string decimal(double value) {
    char text[32];
    std::snprintf(text, sizeof text,
                  value > -1e15 && value < 1e15 && value == static_cast<double>(static_cast<long long>(value))
                      ? "%.0f"
                      : "%.7g",
                  value);
    return text;
}

inline void check(const char* name, double value, const Range& range) {
    if (range.holds(value)) return;
    const std::string least = decimal(range.least);
    std::string limits = range.is_open ? "above " + least : least + " or more";
    if (range.most < kNoLimit)
        limits = range.is_open ? limits + " and at most " + decimal(range.most)
                               : "between " + least + " and " + decimal(range.most);
    else if (range.least <= -kNoLimit)
        limits = "a finite number";
    throw OptionError(std::string(name) + " is " + decimal(value) + "; it must be " + limits);
}

}  // namespace detail

// Refuses numbers outside their ranges.
template <typename Options>
void check_ranges(const Options& options) {
    Options::each(options, [](const char* name, const auto& value, const auto& range) {
        using Value = std::decay_t<decltype(value)>;
        if constexpr (std::is_same_v<std::decay_t<decltype(range)>, Range>) {
            if constexpr (std::is_same_v<Value, std::optional<double>>) {
                if (value) detail::check(name, *value, range);
            } else {
                detail::check(name, static_cast<double>(value), range);
            }
        }
    });
}

}  // namespace colm
