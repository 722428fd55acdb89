#include "tokexport/engine.h"

#include <algorithm>
#include <optional>
#include <system_error>

#include "fields.h"
#include "file_record.h"
#include "files.h"
#include "schema.h"
#include "sha256.h"
#include "tokexport/errors.h"

namespace tokexport {
namespace {

namespace fs = std::filesystem;

fs::path folder(const Bundle& bundle) { return bundle.path() / "engines"; }

fs::path sidecar(const Bundle& bundle, const std::string& device, const std::string& variant, const std::string& role) {
    return folder(bundle) / device / (variant + "." + role + ".json");
}

std::string again(const Bundle& bundle, const std::string& device) {
    return "Build it again: tokexport build " + bundle.path().string() + " --device " + device;
}

// The first three numbers, which must be equal where an engine is built and run; packages append a build number.
std::string release(const std::string& version) {
    std::size_t end = 0;
    for (int dots = 0; end < version.size() && (version[end] != '.' || ++dots < 3);) ++end;
    return version.substr(0, end);
}

EngineRecord record_of(const Field& field) {
    Fields fields(field);
    EngineRecord record;
    record.role = fields.at("role").text();
    record.variant = fields.at("variant").text();
    record.device = fields.at("device").text();
    record.form = fields.at("form").one_of({"portable", "plugin", "inlined"});
    for (const auto& [name, digest] : fields.at("graph").items()) record.graph[name] = digest.text();
    record.runtime = fields.at("runtime").text();
    record.version = fields.at("version").text();
    record.compute_capability = fields.at("compute_capability").text();
    record.plan = file_record(fields.at("plan"));
    const Field plugins = fields.at("plugins");
    Fields inner(plugins);
    if (const auto names = inner.find("names"))
        for (const Field& name : names->list()) record.plugins.push_back(name.text());
    if (const auto library = inner.optional("library")) record.plugin_library = library->text();
    for (const Field& look : fields.at("layers").list())
        record.compared |= Fields(look).at("stage").one_of({"network", "engine"}) == "engine";
    field.must(!record.graph.empty(), "graph is empty");
    return record;
}

// A link in any part of the path could lead out of the bundle.
bool is_linked(const Bundle& bundle, const fs::path& file) {
    std::error_code error;
    for (fs::path part = file; part != bundle.path() && part.has_relative_path(); part = part.parent_path())
        if (fs::is_symlink(part, error)) return true;
    return false;
}

}  // namespace

std::vector<std::string> engine_devices(const Bundle& bundle, const std::string& variant) {
    std::vector<std::string> found;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(folder(bundle), error))
        if (fs::is_regular_file(entry.path() / (variant + ".encoder.json"), error))
            found.push_back(entry.path().filename().string());
    std::sort(found.begin(), found.end());
    return found;
}

EngineRecord read_engine(const Bundle& bundle, const std::string& device, const std::string& variant,
                         const std::string& role) {
    const fs::path path = sidecar(bundle, device, variant, role);
    std::error_code error;
    if (!fs::is_regular_file(path, error))
        throw MissingError("the bundle has no engine of " + role + " for " + device, path.string(),
                           again(bundle, device));
    if (is_linked(bundle, path))
        throw BundleError("the sidecar of an engine is a symbolic link", path.string(), again(bundle, device));
    try {
        const Document document(RegularFile(path, false).content(kLargestText));
        is_newer_minor(Fields(document.root()).at("schema").text(), path.string(), kNewestSidecar);
        EngineRecord record = record_of(document.root());
        // Renamed, a sidecar would describe another plan.
        document.root().must(record.role == role && record.variant == variant && record.device == device,
                             "it is that of " + record.role + " of " + record.variant + " for " + record.device);
        return record;
    } catch (const BadField& bad) {
        throw BundleError(std::string("the sidecar of an engine is damaged: ") + bad.what(), path.string(),
                          again(bundle, device));
    } catch (const std::system_error& unread) {
        throw BundleError("the sidecar of an engine cannot be read: " + unread.code().message(), path.string(),
                          again(bundle, device));
    }
}

fs::path check_engine(const Bundle& bundle, const EngineRecord& record, const std::string& version,
                      const std::string& compute_capability, bool content) {
    fs::path path = sidecar(bundle, record.device, record.variant, record.role);
    path.replace_extension(".plan");
    const auto refuse = [&](const std::string& fact) {
        throw BundleError(fact, path.string(), again(bundle, record.device));
    };
    if (record.runtime != "tensorrt" || release(record.version) != release(version))
        refuse("the engine was built by " + record.runtime + " " + record.version + ", and tensorrt " + version +
               " is installed here");
    if (record.compute_capability != compute_capability)
        refuse("the engine is for compute capability " + record.compute_capability + ", and this GPU has " +
               compute_capability);
    if (!record.compared) refuse("the types of the engine were not compared with those of the graph");
    const auto& files = bundle.manifest().files;
    for (const auto& [name, digest] : record.graph) {
        const auto found = files.find(name);
        if (found == files.end()) refuse(name + ", which the engine was built of, is no longer in the bundle");
        if (found->second.sha256 != digest) refuse(name + ", which the engine was built of, has changed since");
    }
    std::error_code error;
    if (!fs::is_regular_file(path, error)) refuse("the plan is missing");
    if (is_linked(bundle, path)) refuse("the plan is a symbolic link");
    if (fs::file_size(path, error) != record.plan.size || (content && sha256(path) != record.plan.sha256))
        refuse("the plan is not the one that its sidecar describes");
    return path;
}

std::string choose_device(const Bundle& bundle, const std::string& variant, const std::string& asked,
                          const std::string& version, const std::string& compute_capability) {
    const auto there = engine_devices(bundle, variant);
    const std::string where = bundle.path().string();
    if (there.empty()) throw MissingError("the bundle has no engines", where, "Run: tokexport build " + where);
    if (!asked.empty()) {
        if (std::find(there.begin(), there.end(), asked) == there.end())
            throw RequestError("the bundle has no engines for '" + asked + "'", where,
                               nearest(asked, there, "devices"));
        return asked;
    }
    std::vector<std::string> fit;
    std::optional<BundleError> wrong;
    for (const std::string& device : there) {
        try {
            check_engine(bundle, read_engine(bundle, device, variant, "encoder"), version, compute_capability, false);
            fit.push_back(device);
        } catch (const BundleError& error) {
            if (!wrong) wrong = error;
        }
    }
    if (fit.empty()) throw *wrong;
    if (fit.size() > 1)
        throw RequestError("the engines for " + fit[0] + " and " + fit[1] + " both run here", where,
                           "Name one: " + fit[0]);
    return fit[0];
}

}  // namespace tokexport
