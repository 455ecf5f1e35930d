// doctest, with what its messages say of our values, and numbers that are near enough.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <ostream>
#include <vector>

// REQUIRE_EQ(x, about(value, tolerance)): equal infinities are near, NaN is near nothing.
struct About {
    double value;
    double tolerance;

    friend bool operator==(double x, const About& other) {
        return x == other.value || std::fabs(x - other.value) <= other.tolerance;
    }
};

inline About about(double value, double tolerance) { return {value, tolerance}; }

template <>
struct doctest::StringMaker<About> {
    static String convert(const About& number) {
        return toString(number.value) + " within " + toString(number.tolerance);
    }
};

template <typename T>
struct doctest::StringMaker<std::vector<T>> {
    static String convert(const std::vector<T>& values) {
        String all = "[";
        for (const auto& value : values) {
            if (all.size() > 1) all += ", ";
            all += toString(value);
        }
        return all + "]";
    }
};
