// An answer as JSON.
#pragma once

#include <nlohmann/json.hpp>

#include "tokexport/answer.h"

// As Answer.to_json in Python: what says nothing is left out.
inline nlohmann::json json_of(const tokexport::Answer& found) {
    nlohmann::json json = {
        {"text", found.text}, {"ids", found.ids}, {"kept_indices", found.kept_indices}, {"sizes", found.sizes}};
    if (!found.finished) json["finished"] = false;
    if (!found.notes.empty()) json["notes"] = found.notes;
    if (!found.language.empty()) json["language"] = found.language;
    if (found.segments) {
        json["segments"] = nlohmann::json::array();
        for (const auto& [start, end, text] : *found.segments)
            json["segments"].push_back({{"start", start}, {"end", end}, {"text", text}});
    }
    for (const auto& [start, end, variant, slots] : found.pieces)
        json["pieces"].push_back({{"start", start}, {"end", end}, {"variant", variant}, {"slots", slots}});
    return json;
}
