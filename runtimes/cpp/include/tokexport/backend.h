// What runs the graphs of a bundle. ONNX Runtime and TensorRT are two; a program may bring its own.
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

    // Inputs have the dtype and shape that the manifest gives. What comes out stays valid whatever runs next; inputs
    // are taken by value, so that those nobody else holds need not be kept.
    virtual Tensors run(Tensors inputs) = 0;

    // What a program should know of how it runs, such as that it goes slower than it could and why.
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
