#include "tokexport/backend.h"

#include <algorithm>

#include "tokexport/errors.h"

namespace tokexport {

void check_names(const std::string& role, const std::map<std::string, TensorRecord>& wanted,
                 const std::vector<std::string>& found, const std::string& where) {
    for (const auto& [name, tensor] : wanted)
        if (std::find(found.begin(), found.end(), tensor.name) == found.end())
            throw BundleError("the graph of " + role + " has no tensor '" + tensor.name + "', which the manifest names",
                              where, "Export the bundle again.");
}

}  // namespace tokexport
