#include "unicode.h"

#include <locale.h>
#include <wctype.h>

#include "tokexport/errors.h"

namespace tokexport {
namespace {

locale_t unicode() {
    static const locale_t made = newlocale(LC_CTYPE_MASK, "C.UTF-8", static_cast<locale_t>(nullptr));
    if (made == static_cast<locale_t>(nullptr))
        throw MissingError("this machine has no locale C.UTF-8, which reading text beyond ASCII needs", "",
                           "Install it, or ask in ASCII.");
    return made;
}

bool is_ascii(char32_t c) { return c < 0x80; }

}  // namespace

std::u32string from_utf8(const std::string& text) {
    std::u32string found;
    for (std::size_t i = 0; i < text.size();) {
        const auto lead = static_cast<unsigned char>(text[i]);
        const std::size_t length = lead < 0x80   ? 1
                                   : lead < 0xC2 ? 0
                                   : lead < 0xE0 ? 2
                                   : lead < 0xF0 ? 3
                                   : lead < 0xF5 ? 4
                                                 : 0;
        char32_t c = length < 2 ? lead : lead & (0x7F >> length);
        bool good = length > 0 && i + length <= text.size();
        for (std::size_t k = 1; good && k < length; ++k) {
            const auto next = static_cast<unsigned char>(text[i + k]);
            good = (next & 0xC0) == 0x80;
            c = c << 6 | (next & 0x3F);
        }
        static const char32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
        if (!good || c < least[length] || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000))
            throw RequestError("byte " + std::to_string(i) + " of the text is not UTF-8");
        found += c;
        i += length;
    }
    return found;
}

std::string repaired(const std::string& bytes) {
    std::string text;
    for (std::size_t i = 0; i < bytes.size();) {
        const auto lead = static_cast<unsigned char>(bytes[i]);
        const std::size_t length = lead < 0x80                    ? 1
                                   : lead >= 0xC2 && lead < 0xE0  ? 2
                                   : lead >= 0xE0 && lead < 0xF0  ? 3
                                   : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                                  : 0;
        // The first continuation also excludes overlong forms, surrogates, and what lies beyond U+10FFFF.
        unsigned char least = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
        unsigned char most = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
        std::size_t there = 1;
        while (there < length && i + there < bytes.size()) {
            const auto next = static_cast<unsigned char>(bytes[i + there]);
            if (next < least || next > most) break;
            least = 0x80, most = 0xBF, ++there;
        }
        text += there == length ? bytes.substr(i, length) : "\xEF\xBF\xBD";
        i += there;
    }
    return text;
}

std::string to_utf8(const std::u32string& text) {
    std::string found;
    for (const char32_t c : text) {
        const auto tail = [&](int shift) { found += static_cast<char>(0x80 | (c >> shift & 0x3F)); };
        if (c < 0x80) {
            found += static_cast<char>(c);
        } else if (c < 0x800) {
            found += static_cast<char>(0xC0 | c >> 6), tail(0);
        } else if (c < 0x10000) {
            found += static_cast<char>(0xE0 | c >> 12), tail(6), tail(0);
        } else {
            found += static_cast<char>(0xF0 | c >> 18), tail(12), tail(6), tail(0);
        }
    }
    return found;
}

char32_t lower(char32_t c) {
    if (is_ascii(c)) return c >= U'A' && c <= U'Z' ? c + 32 : c;
    return static_cast<char32_t>(towlower_l(static_cast<wint_t>(c), unicode()));
}

bool is_word(char32_t c) {
    if (is_ascii(c))
        return (c >= U'a' && c <= U'z') || (c >= U'A' && c <= U'Z') || (c >= U'0' && c <= U'9') || c == U'_';
    return iswalnum_l(static_cast<wint_t>(c), unicode());
}

bool is_space(char32_t c) {
    return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

}  // namespace tokexport
