// Catch2 of either major version: Debian 12 has 2, Debian 13 has 3.
#pragma once

#if __has_include(<catch2/catch_test_macros.hpp>)
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
using Catch::Matchers::ContainsSubstring;
#else
#include <catch2/catch.hpp>
inline auto ContainsSubstring(const std::string& text) { return Catch::Matchers::Contains(text); }
#endif

// The expression throws this type, and its message holds the text. (A type without commas, in one statement.)
#define CHECK_SAYS(expression, type, text)                                  \
    do {                                                                    \
        try {                                                               \
            (void)(expression);                                             \
            FAIL_CHECK("nothing was thrown");                               \
        } catch (const type& error) {                                       \
            CHECK_THAT(std::string(error.what()), ContainsSubstring(text)); \
        }                                                                   \
    } while (false)
