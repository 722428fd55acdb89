// Engines beside the toy bundle.
#pragma once

#include "toy.h"

namespace toy {

// The SHA-256 of "toy", which the fake TensorRT takes for a plan.
inline const std::string kToy = "0f53133ce57ca8e8937bb4b1c15a33ef9594704e1c11abd58e598bb8362f7385";

inline const std::string kSidecar = R"({
  "schema": "1.0", "tokexport": "0.1.0", "role": "encoder", "variant": "toy-0.5", "device": "orin", "form": "plugin",
  "precision": "fp16", "graph": {"graphs/encoder.onnx": ")" +
                                    kAbc + R"("}, "runtime": "tensorrt",
  "version": "10.3.0.26", "compute_capability": "8.7", "plan": {"size": 3, "sha256": ")" +
                                    kToy + R"("},
  "plugins": {"names": ["TokexportApet"], "library": null}, "timing_cache": null, "workspace": null,
  "layers": [{"stage": "engine", "layers": 3, "compared": 4}]})";

inline void engine(const Folder& folder, const std::string& sidecar = kSidecar, const std::string& device = "orin",
                   const std::string& plan = "toy") {
    folder.write("engines/" + device + "/toy-0.5.encoder.json", sidecar);
    folder.write("engines/" + device + "/toy-0.5.encoder.plan", plan);
}

}  // namespace toy
