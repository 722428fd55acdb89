// Walks the wire format of an ONNX file along the fields that can lead to a tensor; all others are skipped.
#include <set>
#include <string_view>
#include <vector>

#include "files.h"
#include "schema.h"
#include "tokexport/errors.h"

namespace tokexport {
namespace {

enum Message { kModel, kTraining, kFunction, kGraph, kNode, kAttribute, kSparse, kTensor, kEntry };

// A field of a message that holds another message.
struct Step {
    Message from;
    std::uint64_t field;
    Message to;
};

constexpr Step kSteps[] = {
    {kModel, 7, kGraph},      {kModel, 20, kTraining},     {kModel, 25, kFunction},  {kTraining, 1, kGraph},
    {kTraining, 2, kGraph},   {kFunction, 7, kNode},       {kGraph, 1, kNode},       {kGraph, 5, kTensor},
    {kGraph, 15, kSparse},    {kNode, 5, kAttribute},      {kAttribute, 5, kTensor}, {kAttribute, 6, kGraph},
    {kAttribute, 10, kTensor}, {kAttribute, 11, kGraph},   {kAttribute, 22, kSparse}, {kAttribute, 23, kSparse},
    {kSparse, 1, kTensor},    {kSparse, 2, kTensor},       {kTensor, 13, kEntry},
};

// The text is no message.
struct Broken {};

class Reader {
  public:
    explicit Reader(std::string_view text) : left_(text) {}

    bool next() {
        if (left_.empty()) return false;
        const std::uint64_t tag = varint();
        field = tag >> 3;
        payload = {};
        is_bytes = (tag & 7) == 2;
        switch (tag & 7) {
            case 0: varint(); break;
            case 1: take(8); break;
            case 2: payload = take(varint()); break;
            case 5: take(4); break;
            default: throw Broken{};
        }
        return true;
    }

    std::uint64_t field = 0;
    std::string_view payload;
    bool is_bytes = false;

  private:
    std::uint64_t varint() {
        std::uint64_t value = 0;
        for (unsigned shift = 0; shift < 70; shift += 7) {
            const auto byte = static_cast<unsigned char>(take(1)[0]);
            if (shift < 64) value |= std::uint64_t{byte & 0x7fu} << shift;
            if (byte < 0x80) return value;
        }
        throw Broken{};
    }

    std::string_view take(std::uint64_t count) {
        if (count > left_.size()) throw Broken{};
        const std::string_view taken = left_.substr(0, count);
        left_.remove_prefix(count);
        return taken;
    }

    std::string_view left_;
};

// The value of an entry {1: key, 2: value} whose key is `location`.
void add_location(std::string_view entry, std::set<std::string>& found) {
    std::string_view key, value;
    for (Reader reader(entry); reader.next();) {
        if (reader.is_bytes && reader.field == 1) key = reader.payload;
        if (reader.is_bytes && reader.field == 2) value = reader.payload;
    }
    if (key == "location") found.emplace(value);
}

}  // namespace

std::vector<std::string> external_data(const std::string& name, const std::string& content) {
    std::set<std::string> found;
    std::vector<std::pair<Message, std::string_view>> left = {{kModel, content}};
    try {
        while (!left.empty()) {
            const auto [message, text] = left.back();
            left.pop_back();
            if (message == kEntry) {
                add_location(text, found);
                continue;
            }
            for (Reader reader(text); reader.next();)
                for (const Step& step : kSteps)
                    if (reader.is_bytes && step.from == message && step.field == reader.field)
                        left.emplace_back(step.to, reader.payload);
        }
    } catch (const Broken&) {
        throw GraphError("runtimes cannot load it: it is no ONNX graph", name, kAgain);
    }
    const std::string folder = name.substr(0, name.find_last_of('/') + 1);
    std::vector<std::string> paths;
    for (const std::string& location : found)
        paths.push_back(!location.empty() && location[0] == '/' ? location : folder + location);
    return paths;
}

}  // namespace tokexport
