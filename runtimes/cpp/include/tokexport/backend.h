// Runs the graphs of a bundle. There are two backends, ONNX Runtime and TensorRT; a program may add its own.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tokexport/bundle.h"
#include "tokexport/tensor.h"

namespace tokexport {

// A loaded graph. Names on both sides are those of the graph.
class Graph {
  public:
    virtual ~Graph() = default;

    // Inputs have the dtype and shape of the manifest. Outputs stay valid whatever runs next. Inputs are taken by
    // value: a backend may reuse the buffer of one that has no other owner.
    virtual Tensors run(Tensors inputs) = 0;

    // Remarks for the user, such as why it runs slower than it could.
    virtual std::vector<std::string> notes() const { return {}; }
};

class Backend {
  public:
    virtual ~Backend() = default;

    // Loads the graph of a role. GraphError: it cannot be loaded. BundleError: it lacks a tensor that the manifest
    // names.
    virtual std::unique_ptr<Graph> load(const Bundle& bundle, const Variant& variant, const std::string& role) = 0;
};

// BundleError: a tensor that the manifest names is not among the graph's own.
void check_names(const std::string& role, const std::map<std::string, TensorRecord>& wanted,
                 const std::vector<std::string>& found, const std::string& where);

}  // namespace tokexport
