#include "fields.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tokexport/errors.h"

namespace tokexport {

using Json = nlohmann::json;

void Field::must(bool right, const std::string& fact) const {
    if (!right) throw BadField(place_, fact);
}

bool Field::is_list() const { return json_->is_array(); }

bool Field::is_null() const { return json_->is_null(); }

std::string Field::json() const { return json_->dump(); }

std::string Field::text() const {
    must(json_->is_string(), "it is no text");
    return json_->get_ref<const std::string&>();
}

std::string Field::one_of(const std::vector<std::string>& known) const {
    const std::string value = text();
    must(std::find(known.begin(), known.end(), value) != known.end(),
         "it cannot be '" + value + "'. " + nearest(value, known, "values"));
    return value;
}

std::int64_t Field::integer(std::int64_t least, std::int64_t most) const {
    must(json_->is_number_integer() && !(json_->is_number_unsigned() && json_->get<std::uint64_t>() > INT64_MAX),
         "it is no whole number");
    const auto number = json_->get<std::int64_t>();
    must(number >= least, std::to_string(number) + " is less than " + std::to_string(least));
    must(number <= most, std::to_string(number) + " is more than " + std::to_string(most));
    return number;
}

double Field::number() const {
    must(json_->is_number(), "it is no number");
    return json_->get<double>();
}

bool Field::boolean() const {
    must(json_->is_boolean(), "it is neither true nor false");
    return json_->get<bool>();
}

std::vector<Field> Field::list() const {
    must(json_->is_array(), "it is no list");
    std::vector<Field> found;
    for (const Json& value : *json_) found.emplace_back(value, place_ + "." + std::to_string(found.size()), lenient_);
    return found;
}

std::vector<std::pair<std::string, Field>> Field::items() const {
    must(json_->is_object(), "it is no object");
    std::vector<std::pair<std::string, Field>> found;
    for (const auto& [key, value] : json_->items())
        found.emplace_back(key, Field(value, place_.empty() ? key : place_ + "." + key, lenient_));
    return found;
}

std::vector<std::int64_t> Field::integers(std::int64_t least, std::int64_t most) const {
    std::vector<std::int64_t> found;
    for (const Field& value : list()) found.push_back(value.integer(least, most));
    return found;
}

Fields::Fields(Field object) : object_(std::move(object)) {
    object_.must(object_.json_->is_object(), "it is no object");
}

std::optional<Field> Fields::find(const std::string& key) {
    read_.insert(key);
    const auto found = object_.json_->find(key);
    if (found == object_.json_->end()) return std::nullopt;
    return Field(*found, object_.place_.empty() ? key : object_.place_ + "." + key, object_.lenient_);
}

std::optional<Field> Fields::optional(const std::string& key) {
    const auto found = find(key);
    return found && found->is_null() ? std::nullopt : found;
}

Field Fields::at(const std::string& key) {
    const auto found = find(key);
    object_.must(found.has_value(), "field '" + key + "' is missing");
    return *found;
}

void Fields::done() const {
    if (object_.lenient_) return;
    for (const auto& item : object_.json_->items())
        object_.must(read_.count(item.key()) > 0 || item.key().rfind("x-", 0) == 0, "unknown key '" + item.key() + "'");
}

Document::Document(const std::string& text) {
    try {
        json_ = std::make_unique<Json>(Json::parse(text));
    } catch (const Json::exception& error) {
        throw BadField("", error.what());
    }
}

Document::~Document() = default;

}  // namespace tokexport
