// doctest, and what these tests ask again and again.
#pragma once

#define DOCTEST_CONFIG_USE_STD_HEADERS

#include <doctest/doctest.h>

#include <ostream>
#include <string>

// The expression throws this type, and its message holds the text. (A type without commas, in one statement.)
#define CHECK_SAYS(expression, type, text) \
    do { \
        try { \
            (void)(expression); \
            FAIL_CHECK("nothing was thrown"); \
        } catch (const type& error) { \
            INFO(std::string(error.what())); \
            CHECK(std::string(error.what()).find(text) != std::string::npos); \
        } \
    } while (false)
