// Reads JSON field by field and refuses, by its place, what is missing, of another type, or unknown. The JSON library
// is compiled in fields.cpp alone.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace tokexport {

// A field that is wrong; its message names the place.
struct BadField : std::runtime_error {
    BadField(const std::string& place, const std::string& fact)
        : std::runtime_error(place.empty() ? fact : "at " + place + ": " + fact) {}
};

// A value and its place, such as variants.0.name.
class Field {
  public:
    Field(const nlohmann::json& json, std::string place, bool lenient)
        : json_(&json), place_(std::move(place)), lenient_(lenient) {}

    const std::string& place() const { return place_; }
    void must(bool right, const std::string& fact) const;

    bool is_list() const;
    bool is_null() const;
    std::string json() const;
    std::string text() const;
    std::string one_of(const std::vector<std::string>& known) const;
    std::int64_t integer(std::int64_t least, std::int64_t most = INT64_MAX) const;
    double number() const;
    bool boolean() const;
    std::vector<Field> list() const;
    std::vector<std::pair<std::string, Field>> items() const;
    std::vector<std::int64_t> integers(std::int64_t least, std::int64_t most = INT64_MAX) const;

  private:
    friend class Fields;

    const nlohmann::json* json_;
    std::string place_;
    bool lenient_;
};

// The fields of an object. A `lenient` one may have unknown keys.
class Fields {
  public:
    explicit Fields(Field object);

    Field at(const std::string& key);  // BadField: there is none
    std::optional<Field> find(const std::string& key);
    std::optional<Field> optional(const std::string& key);  // null counts as absent
    void ignore(const std::string& key) { read_.insert(key); }

    // BadField: there is a key that was not read and is not private (x-).
    void done() const;

  private:
    Field object_;
    std::set<std::string> read_;
};

// The value of an enumeration whose names, in its order, are these.
template <class Enumeration>
Enumeration named(const Field& field, const std::vector<std::string>& names) {
    const std::string name = field.one_of(names);
    return static_cast<Enumeration>(std::find(names.begin(), names.end(), name) - names.begin());
}

class Document {
  public:
    // BadField: it is no JSON.
    explicit Document(const std::string& text);
    ~Document();

    Field root(bool lenient = false) const { return {*json_, "", lenient}; }

  private:
    std::unique_ptr<nlohmann::json> json_;
};

}  // namespace tokexport
