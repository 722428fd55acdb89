// The errors of this library, as in errors.py: what is wrong, where, and what to do next.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

namespace tokexport {

// Base of all errors that a bundle, a request or a machine can cause. what() is one paragraph made of
//   fact    what is wrong, with the offending value in it
//   where   the graph, tensor or file it was found in; may be empty
//   fix     what to type or change next; may be empty
class Error : public std::runtime_error {
  public:
    explicit Error(const std::string& fact, const std::string& where = "", const std::string& fix = "");

    const std::string& fact() const noexcept { return fact_; }
    const std::string& where() const noexcept { return where_; }
    const std::string& fix() const noexcept { return fix_; }

    // What a program should exit with: 2 for a wrong request or input, 3 for something missing on this machine.
    virtual int exit_code() const noexcept { return 2; }

  private:
    std::string fact_, where_, fix_;
};

// The request itself is wrong: an unknown word, a prompt that is too long, an input of another shape.
class RequestError : public Error {
    using Error::Error;
};

// A graph cannot be loaded or run, or returns what the contract does not allow.
class GraphError : public Error {
    using Error::Error;
};

// A bundle on disk is damaged, incomplete or too new.
class BundleError : public Error {
    using Error::Error;
};

// Something that is needed is not on this machine; fix() says how to get it.
class MissingError : public Error {
  public:
    using Error::Error;
    int exit_code() const noexcept override { return 3; }
};

// "Did you mean apet? Known methods: apet, topk."
std::string nearest(const std::string& name, const std::vector<std::string>& known, const std::string& kind);

// The known name closest to `name`, or "" where none is.
std::string closest(const std::string& name, const std::vector<std::string>& known);

// The keys of a map, for nearest().
template <class Map>
std::vector<std::string> keys(const Map& map) {
    std::vector<std::string> found;
    for (const auto& item : map) found.push_back(item.first);
    return found;
}

}  // namespace tokexport
