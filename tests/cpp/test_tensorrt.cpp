// The TensorRT backend over a TensorRT and a CUDA that only pretend (fake/): addresses, graphs, plugins and refusals.
#include <cuda_runtime_api.h>

#include "says.h"
#include "tokexport/errors.h"
#include "tokexport/session.h"
#include "tokexport/tensorrt.h"
#include "toy_engine.h"

using namespace tokexport;

namespace {

const std::string kPlain = toy::with(toy::kSidecar, "\"TokexportApet\"", "");

// The toy bundle, whose encoder also reads a past.
struct Machine {
    toy::Folder folder;

    explicit Machine(const std::string& sidecar = kPlain, const std::string& plan = "toy") {
        fake = Fake();
        toy::bundle(folder, toy::with(toy::kManifest, R"("shape": [1, 3, 2, 2]}})",
                                      R"("shape": [1, 3, 2, 2]},
                                        "past": {"name": "past", "dtype": "float32", "shape": [1, 2, 1]}})"));
        toy::engine(folder, sidecar, "orin", plan);
    }

    Session session(const TensorRtOptions& options = {}) {
        return Session(Bundle::open(folder.path), tensorrt_backend(options));
    }
};

Tensor pixels(float first) { return Tensor::of<float>({1, 3, 2, 2}, std::vector<float>(12, first)); }
Tensor past(float value) { return Tensor::of<float>({1, 2, 1}, {value, -value}); }

Tensor step(Session& session, float first, Tensor before) {
    return session.run("encoder", {{"pixel_values", pixels(first)}, {"past", std::move(before)}})["tokens"];
}

}  // namespace

TEST_CASE("a first run goes to the stream, a second is captured, a third is replayed") {
    Machine machine;
    Session session = machine.session();
    for (int run = 0; run < 5; ++run)
        CHECK(step(session, float(run), past(10)).floats() == std::vector<float>{float(run) + 10, float(run) - 10});
    CHECK(fake.enqueued == 2);
    CHECK(fake.replayed == 4);
    CHECK(session.notes().empty());
}

TEST_CASE("a cache goes to and fro between two buffers on the device") {
    Machine machine;
    Session session = machine.session();
    Tensor cache = step(session, 1, past(0));
    for (int run = 2; run <= 9; ++run) cache = step(session, float(run), std::move(cache));
    CHECK(fake.downloads == 0);
    CHECK(cache.floats() == std::vector<float>{45, 45});
    // Page-locked and device memory of two inputs, and two buffers of the output.
    CHECK(fake.allocated == 6);
    CHECK(fake.replayed >= 5);
}

TEST_CASE("a slice is written into a cache on the device") {
    Machine machine;
    Session session = machine.session();
    Tensor cache = step(session, 1, past(0));
    const void* before = cache.host();
    CHECK(cache.floats() == std::vector<float>{1, 1});
    fake.downloads = 0;
    // From the host, and then from the device.
    cache.put(Tensor::of<float>({1, 1, 1}, {7}), 1);
    CHECK(cache.floats() == std::vector<float>{1, 7});
    CHECK(cache.host() == before);
    const Tensor other = step(session, 2, cache);
    CHECK(other.floats() == std::vector<float>{3, 9});
    fake.downloads = 0;
    const Tensor slice(DType::float32, {1, 1, 1}, other.buffer());
    cache.put(slice, 1);
    CHECK(fake.downloads == 0);
    CHECK(cache.floats() == std::vector<float>{1, 3});
    CHECK(step(session, 0, cache).floats() == std::vector<float>{1, 3});
}

TEST_CASE("what came out of a run stays what it was") {
    Machine machine;
    Session session = machine.session();
    std::vector<Tensor> kept;
    for (int run = 0; run < 40; ++run) kept.push_back(step(session, float(run), past(1)));
    for (int run = 0; run < 40; ++run) CHECK(kept[std::size_t(run)].floats()[0] == float(run) + 1);
    CHECK(session.notes().size() == 1);
}

TEST_CASE("nothing stays allocated") {
    {
        Machine machine;
        Tensor left;
        {
            Session session = machine.session();
            left = step(session, 1, past(1));
        }
        CHECK(left.floats()[0] == 2);
        CHECK(fake.allocated == 1);
    }
    CHECK(fake.allocated == 0);
}

TEST_CASE("without CUDA graphs every run goes to the stream") {
    for (const bool captures : {true, false}) {
        Machine machine;
        fake.captures = captures;
        TensorRtOptions options;
        options.cuda_graphs = !captures;
        Session session = machine.session(options);
        for (int run = 0; run < 4; ++run) CHECK(step(session, float(run), past(0)).floats()[0] == float(run));
        CHECK(fake.replayed == 0);
        const std::string why = captures ? "it was switched off" : "cudaStreamEndCapture failed: fake error";
        CHECK(session.notes() == std::vector<std::string>{"encoder: no CUDA graph: " + why});
    }
}

TEST_CASE("an engine that TensorRT does not enqueue is an error with its reason") {
    Machine machine;
    Session session = machine.session();
    fake.enqueues = false;
    CHECK_SAYS(step(session, 1, past(1)), GraphError, "could not enqueue the engine: it gives no reason");
    fake.enqueues = true;
    CHECK(step(session, 1, past(1)).floats()[0] == 2);
}

TEST_CASE("an engine with plugins needs the library that has them") {
    Machine machine(toy::kSidecar);
    const auto run = [&](const std::string& library) {
        TensorRtOptions options;
        options.plugin_library = library;
        Session session = machine.session(options);
        return step(session, 1, past(1)).floats()[0];
    };
    unsetenv("TOKEXPORT_PLUGINS");
    CHECK_SAYS(run(""), MissingError, "needs the plugin TokexportApet");
    CHECK_SAYS(run("nowhere.so"), MissingError, "no plugin library nowhere.so");
    const std::string library = machine.folder.write("plugins.so", "").string();
    CHECK_SAYS(run(library), MissingError, "finds no TokexportApet in the plugin library");
    fake.has_plugin = true;
    CHECK(run(library) == 2);
    setenv("TOKEXPORT_PLUGINS", library.c_str(), 1);
    fake.libraries.clear();
    CHECK(run("") == 2);
    CHECK(fake.libraries == std::vector<std::string>{library});
    unsetenv("TOKEXPORT_PLUGINS");
}

TEST_CASE("a machine that cannot run an engine says so") {
    Machine machine;
    Session session = machine.session();
    fake.memory = 20;
    CHECK_SAYS(step(session, 1, past(1)), MissingError, "the GPU is out of memory");
    Machine other;
    fake.minor = 6;
    Session wrong = other.session();
    CHECK_SAYS(step(wrong, 1, past(1)), BundleError, "this GPU has 8.6");
    fake.major = 0;
    CHECK_SAYS(other.session(), MissingError, "CUDA sees no GPU here");
    Machine bad(toy::with(kPlain, toy::kToy, toy::kAbc), "abc");
    Session refused = bad.session();
    CHECK_SAYS(step(refused, 1, past(1)), GraphError, "TensorRT 10.3.0 cannot load the engine: that is no toy");
}
