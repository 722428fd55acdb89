#include "attributes.h"

#include <algorithm>
#include <cstring>
#include <sstream>
#include <utility>

namespace tokexport::shell {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

namespace {

template <class T>
std::string text(const T& value) {
    std::ostringstream out;
    out << value;
    return out.str();
}

template <class Items>
std::string list(const Items& items) {
    std::string out;
    for (const auto& item : items) out += (out.empty() ? "" : ", ") + text(item);
    return out;
}

template <class To, class From>
std::vector<To> elements(const PluginField& field) {
    const auto* data = static_cast<const From*>(field.data);
    return {data, data + field.length};
}

bool is_whole(const PluginField& field) {
    return field.type == PluginFieldType::kINT32 || field.type == PluginFieldType::kINT64;
}

std::string kind(const PluginField& field) {
    switch (field.type) {
        case PluginFieldType::kINT32:
        case PluginFieldType::kINT64: return field.length == 1 ? "an integer" : text(field.length) + " integers";
        case PluginFieldType::kFLOAT32:
        case PluginFieldType::kFLOAT64: return field.length == 1 ? "a float" : text(field.length) + " floats";
        case PluginFieldType::kCHAR: return "a string";
        default: return "of a type that no attribute of this plugin has";
    }
}

bool same(const char* left, const char* right) { return std::strcmp(left, right) == 0; }

}  // namespace

Attributes::Attributes(std::string label, const nvinfer1::PluginFieldCollection* fields)
    : label_(std::move(label)), fields_(fields) {}

int32_t Attributes::integer(const char* name, int32_t least, int32_t most) {
    return whole(name, 1, least, most)[0];
}

int32_t Attributes::flag(const char* name) { return integer(name, 0, 1); }

std::vector<int32_t> Attributes::integers(const char* name, int32_t count, int32_t least, int32_t most) {
    return whole(name, static_cast<size_t>(count), least, most);
}

float Attributes::number(const char* name, float least, float most) {
    const std::string domain = "a float, " + text(least) + " to " + text(most);
    float value = least;
    if (const PluginField* field = find(name, domain)) {
        const bool wide = field->type == PluginFieldType::kFLOAT64;
        if ((!wide && field->type != PluginFieldType::kFLOAT32) || field->length != 1)
            refuse(name, kind(*field), domain);
        value = wide ? elements<float, double>(*field)[0] : elements<float, float>(*field)[0];
        if (!(least <= value && value <= most)) refuse(name, text(value), domain);
    }
    keep(name, PluginFieldType::kFLOAT32, &value, sizeof value, 1);
    return value;
}

int32_t Attributes::choice(const char* name, std::initializer_list<const char*> names) {
    const std::string domain = list(names);
    std::string value = *names.begin();
    if (const PluginField* field = find(name, domain)) {
        if (field->type != PluginFieldType::kCHAR) refuse(name, kind(*field), domain);
        value.assign(static_cast<const char*>(field->data), static_cast<size_t>(field->length));
        value.resize(std::min(value.size(), value.find('\0')));
    }
    const auto found = std::find(names.begin(), names.end(), value);
    if (found == names.end()) refuse(name, "'" + value + "'", domain);
    keep(name, PluginFieldType::kCHAR, value.data(), value.size(), value.size());
    return static_cast<int32_t>(found - names.begin());
}

void Attributes::finish() const {
    for (int32_t i = 0; fields_ != nullptr && i < fields_->nbFields; ++i) {
        const char* name = fields_->fields[i].name;
        const auto asked = [name](const Attribute& attribute) { return same(attribute.name, name); };
        if (std::any_of(read_.begin(), read_.end(), asked)) continue;
        std::vector<const char*> names;
        for (const Attribute& attribute : read_) names.push_back(attribute.name);
        throw Refused(label_ + ": there is no attribute '" + name + "'; allowed: " + list(names));
    }
}

const PluginField* Attributes::find(const char* name, const std::string& domain) const {
    if (fields_ == nullptr) return nullptr;
    for (int32_t i = 0; i < fields_->nbFields; ++i) {
        const PluginField& field = fields_->fields[i];
        if (same(field.name, name) && field.data != nullptr && field.length > 0) return &field;
    }
    throw Refused(label_ + ": attribute '" + name + "' is missing; allowed: " + domain);
}

std::vector<int32_t> Attributes::whole(const char* name, size_t count, int32_t least, int32_t most) {
    const std::string range = text(least) + " to " + text(most);
    const std::string domain = count == 1 ? "an integer, " + range : text(count) + " integers, each " + range;
    std::vector<int64_t> values(count, least);
    if (const PluginField* field = find(name, domain)) {
        if (!is_whole(*field) || static_cast<size_t>(field->length) != count) refuse(name, kind(*field), domain);
        values = field->type == PluginFieldType::kINT32 ? elements<int64_t, int32_t>(*field)
                                                        : elements<int64_t, int64_t>(*field);
        for (const int64_t value : values)
            if (value < least || value > most) refuse(name, list(values), domain);
    }
    const std::vector<int32_t> narrow(values.begin(), values.end());
    keep(name, PluginFieldType::kINT32, narrow.data(), count * sizeof narrow[0], count);
    return narrow;
}

void Attributes::refuse(const char* name, const std::string& value, const std::string& domain) const {
    throw Refused(label_ + ": attribute '" + name + "' is " + value + "; allowed: " + domain);
}

void Attributes::keep(const char* name, PluginFieldType type, const void* data, size_t bytes, size_t length) {
    const auto* first = static_cast<const char*>(data);
    read_.push_back({name, type, {first, first + bytes}, static_cast<int32_t>(length)});
}

}  // namespace tokexport::shell
