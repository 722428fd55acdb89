#include "tokexport/errors.h"

#include <algorithm>

namespace tokexport {
namespace {

std::string paragraph(const std::string& fact, const std::string& where, const std::string& fix) {
    std::string text = fact.substr(0, fact.find_last_not_of('.') + 1);
    if (!where.empty()) text += " (" + where + ")";
    text += ".";
    return fix.empty() ? text : text + " " + fix;
}

// Insertions, deletions and replacements that turn one word into the other.
std::size_t edits(const std::string& a, const std::string& b) {
    std::vector<std::size_t> row(b.size() + 1);
    for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
    for (std::size_t i = 1; i <= a.size(); ++i) {
        std::size_t diagonal = row[0];
        row[0] = i;
        for (std::size_t j = 1; j <= b.size(); ++j) {
            const std::size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
        }
    }
    return row[b.size()];
}

}  // namespace

Error::Error(const std::string& fact, const std::string& where, const std::string& fix)
    : std::runtime_error(paragraph(fact, where, fix)), fact_(fact), where_(where), fix_(fix) {}

std::string closest(const std::string& name, const std::vector<std::string>& known) {
    std::string best;
    // More than two edits in five letters make another word.
    std::size_t fewest = name.size() * 2 / 5 + 1;
    // The table of edits grows with the product of both lengths, and a long name is no typing error.
    constexpr std::size_t kLongest = 64;
    for (const std::string& word : known) {
        if (std::max(word.size(), name.size()) > kLongest) continue;
        const std::size_t needed = edits(name, word);
        if (needed < fewest) fewest = needed, best = word;
    }
    return best;
}

std::string nearest(const std::string& name, const std::vector<std::string>& known, const std::string& kind) {
    const std::string close = closest(name, known);
    std::string text = close.empty() ? "" : "Did you mean " + close + "? ";
    text += "Known " + kind + ": ";
    for (std::size_t i = 0; i < known.size(); ++i) text += (i ? ", " : "") + known[i];
    return text + (known.empty() ? "none." : ".");
}

}  // namespace tokexport
