// UTF-8, and three properties of a character for words.h: its lower case, whether it is part of a word, whether it is
// a space.
#pragma once

#include <string>

namespace tokexport {

// RequestError: it is not UTF-8.
std::u32string from_utf8(const std::string& text);
std::string to_utf8(const std::u32string& text);

// The bytes with U+FFFD for each that is no UTF-8; those of a character that is cut short become one together, as in
// Rust's from_utf8_lossy and as Unicode recommends.
std::string repaired(const std::string& bytes);

// The simple mapping of the C library's Unicode tables, one character to one. MissingError: beyond ASCII, on a machine
// that has no C.UTF-8 locale.
char32_t lower(char32_t character);
bool is_word(char32_t character);

bool is_space(char32_t character);

}  // namespace tokexport
