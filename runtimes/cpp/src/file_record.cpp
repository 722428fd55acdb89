#include "file_record.h"

#include <algorithm>

namespace tokexport {

FileRecord file_record(const Field& field) {
    Fields fields(field);
    FileRecord file{static_cast<std::uint64_t>(fields.at("size").integer(0)), fields.at("sha256").text()};
    const bool hex = std::all_of(file.sha256.begin(), file.sha256.end(),
                                 [](unsigned char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
    field.must(hex && file.sha256.size() == 64, "'" + file.sha256 + "' is no SHA-256");
    fields.done();
    return file;
}

}  // namespace tokexport
