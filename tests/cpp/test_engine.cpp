// The sidecar of an engine and what is checked before TensorRT sees a plan; none of it needs TensorRT.
#include "says.h"
#include "tokexport/engine.h"
#include "tokexport/errors.h"
#include "toy_engine.h"

using namespace tokexport;
using toy::kSidecar;

namespace {

struct Engines {
    toy::Folder folder;
    Bundle bundle = Bundle::open(toy::bundle(folder));

    template <class... Changed>
    void write(const Changed&... changed) {
        toy::engine(folder, changed...);
    }
    EngineRecord read(const std::string& device = "orin") { return read_engine(bundle, device, "toy-0.5", "encoder"); }
    std::filesystem::path check(const std::string& version = "10.3.0", const std::string& capability = "8.7") {
        return check_engine(bundle, read(), version, capability);
    }
    std::string choose(const std::string& asked = "") {
        return choose_device(bundle, "toy-0.5", asked, "10.3.0", "8.7");
    }
};

}  // namespace

TEST_CASE("an engine of this bundle for this machine is taken") {
    Engines engines;
    engines.write();
    CHECK(engines.read().plugins == std::vector<std::string>{"TokexportApet"});
    CHECK(engines.check() == engines.folder.path / "engines/orin/toy-0.5.encoder.plan");
    CHECK(engines.choose() == "orin");
    CHECK_SAYS(read_engine(engines.bundle, "orin", "toy-0.5", "decode"), MissingError, "has no engine of decode");
}

TEST_CASE("one for another machine, or of another graph, is refused") {
    Engines engines;
    engines.write();
    CHECK_SAYS(engines.check("10.3.1"), BundleError, "built by tensorrt 10.3.0.26, and tensorrt 10.3.1 is installed here");
    CHECK_SAYS(engines.check("10.13.0"), BundleError, "tokexport build");
    CHECK_SAYS(engines.check("10.3.0", "8.6"), BundleError, "compute capability 8.7, and this GPU has 8.6");
    engines.write(toy::with(kSidecar, "\"tensorrt\"", "\"tensorrt-rtx\""));
    CHECK_SAYS(engines.check(), BundleError, "built by tensorrt-rtx");
    engines.write(toy::with(kSidecar, R"("stage": "engine")", R"("stage": "network")"));
    CHECK_SAYS(engines.check(), BundleError, "types of the engine were not compared");
    engines.write(toy::with(kSidecar, "\"graphs/encoder.onnx\"", "\"gone.onnx\""));
    CHECK_SAYS(engines.check(), BundleError, "is no longer in the bundle");
    engines.write(toy::with(kSidecar, toy::kAbc, std::string(64, '0')));
    CHECK_SAYS(engines.check(), BundleError, "has changed since");
    CHECK_SAYS(engines.choose(), BundleError, "has changed since");
}

TEST_CASE("a plan that is not the one described is refused") {
    Engines engines;
    for (const char* plan : {"tox", "toys", ""}) {
        engines.write(kSidecar, "orin", plan);
        CHECK_SAYS(engines.check(), BundleError, "not the one that its sidecar describes");
    }
    const auto plan = engines.folder.path / "engines/orin/toy-0.5.encoder.plan";
    std::filesystem::remove(plan);
    CHECK_SAYS(engines.check(), BundleError, "the plan is missing");
    std::filesystem::create_symlink(engines.folder.path / "graphs/encoder.onnx", plan);
    CHECK_SAYS(engines.check(), BundleError, "symbolic link");
}

TEST_CASE("a damaged sidecar, or that of another engine, is refused") {
    Engines engines;
    for (const auto& [from, to] : {std::pair{"\"encoder\"", "\"decode\""},
                                   {"\"orin\"", "\"thor\""},
                                   {"\"size\": 3", "\"size\": -1"},
                                   {"\"names\": [", "\"names\": [3, "},
                                   {"\"plugin\"", "\"plug\""},
                                   {"{", ""},
                                   {"\"version\"", "\"versions\""},
                                   {"\"1.0\"", "3"}}) {
        INFO(from, " -> ", to);
        engines.write(toy::with(kSidecar, from, to));
        CHECK_SAYS(engines.read(), BundleError, "the sidecar of an engine is damaged");
    }
    engines.write(toy::with(kSidecar, "\"1.0\"", "\"2.0\""));
    CHECK_SAYS(engines.read(), BundleError, "schema 2.0");
}

TEST_CASE("a device is chosen where only one fits") {
    Engines engines;
    CHECK_SAYS(engines.choose(), MissingError, "Run: tokexport build");
    engines.write();
    engines.write(toy::with(toy::with(kSidecar, "\"orin\"", "\"thor\""), "\"8.7\"", "\"11.0\""), "thor");
    CHECK(engines.choose() == "orin");
    CHECK(engines.choose("thor") == "thor");
    CHECK_SAYS(engines.choose("orinn"), RequestError, "Did you mean orin?");
    engines.write(toy::with(kSidecar, "\"orin\"", "\"xavier\""), "xavier");
    CHECK_SAYS(engines.choose(), RequestError, "orin and xavier both run here");
}
