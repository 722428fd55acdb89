// The attributes of a node, checked as they are read.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

namespace tokexport::shell {

// What a user can put right; the text goes to TensorRT's logger.
struct Refused : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// An attribute as it was read, ready to be stored in an engine. `name` is a literal.
struct Attribute {
    const char* name;
    nvinfer1::PluginFieldType type;
    std::vector<char> bytes;
    int32_t length;
};

// Every reader takes the domain of the attribute and throws Refused, with the domain in its text, where the attribute
// is missing, of another type or outside. A method asks for each of its attributes once, in its constructor: which it
// has, and what of it goes into an engine, follow from that.
class Attributes {
  public:
    // `label` begins every message. Without fields nothing is refused: readers return the least value of the domain,
    // and `read` ends up as the list of the method's attributes.
    Attributes(std::string label, const nvinfer1::PluginFieldCollection* fields);

    int32_t integer(const char* name, int32_t least, int32_t most);
    int32_t flag(const char* name);
    float number(const char* name, float least, float most);
    int32_t choice(const char* name, std::initializer_list<const char*> names);
    std::vector<int32_t> integers(const char* name, int32_t count, int32_t least, int32_t most);

    // Throws Refused where a field was given that nobody asked for.
    void finish() const;

    const std::string& label() const { return label_; }
    const std::vector<Attribute>& read() const { return read_; }

  private:
    const nvinfer1::PluginField* find(const char* name, const std::string& domain) const;
    std::vector<int32_t> whole(const char* name, size_t count, int32_t least, int32_t most);
    [[noreturn]] void refuse(const char* name, const std::string& value, const std::string& domain) const;
    void keep(const char* name, nvinfer1::PluginFieldType type, const void* data, size_t bytes, size_t length);

    std::string label_;
    const nvinfer1::PluginFieldCollection* fields_;
    std::vector<Attribute> read_;
};

}  // namespace tokexport::shell
