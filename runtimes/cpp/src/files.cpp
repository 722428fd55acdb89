#include "files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "schema.h"
#include "tokexport/errors.h"

namespace tokexport {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(int code) { throw std::system_error(code, std::generic_category()); }

std::int64_t nanoseconds(const timespec& time) { return time.tv_sec * std::int64_t{1000000000} + time.tv_nsec; }

Identity identity_of(const struct stat& status) {
    return {static_cast<std::uint64_t>(status.st_dev), static_cast<std::uint64_t>(status.st_ino),
            static_cast<std::uint64_t>(status.st_size), nanoseconds(status.st_mtim), nanoseconds(status.st_ctim)};
}

}  // namespace

RegularFile::RegularFile(const fs::path& path, bool follow) {
    // With NONBLOCK the open of a pipe returns at once.
    descriptor_ = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW));
    if (descriptor_ < 0) fail(errno);
    struct stat status {};
    const bool known = ::fstat(descriptor_, &status) == 0;
    if (!known || !S_ISREG(status.st_mode)) {
        const int code = known ? (S_ISDIR(status.st_mode) ? EISDIR : EINVAL) : errno;
        ::close(descriptor_);
        fail(code);
    }
    identity_ = identity_of(status);
}

RegularFile::~RegularFile() { ::close(descriptor_); }

std::string RegularFile::read(std::size_t most) {
    std::string bytes(most, '\0');
    ssize_t count;
    do count = ::read(descriptor_, bytes.data(), most);
    while (count < 0 && errno == EINTR);
    if (count < 0) fail(errno);
    bytes.resize(static_cast<std::size_t>(count));
    return bytes;
}

std::string RegularFile::content(std::uint64_t most) {
    if (identity_.size > most) fail(EFBIG);
    std::string all;
    for (;;) {
        const std::string more = read(std::size_t{1} << 20);
        if (more.empty()) return all;
        all += more;
        if (all.size() > most) fail(EFBIG);
    }
}

Identity check_file(const fs::path& folder, const std::string& name, std::optional<std::uint64_t> size) {
    fs::path path = folder;
    struct stat status {};
    // A link in any part of the path could lead out of the folder.
    for (const fs::path& part : fs::path(name)) {
        path /= part;
        if (::lstat(path.c_str(), &status) != 0) {
            if (errno == ENOENT || errno == ENOTDIR) throw BundleError(name + " is missing", folder.string(), kAgain);
            throw BundleError(name + " cannot be read: " + std::generic_category().message(errno), folder.string(),
                              kAgain);
        }
        if (S_ISLNK(status.st_mode))
            throw BundleError(name + " is a symbolic link, which ONNX Runtime refuses", folder.string(),
                              "Copy the bundle with its files: cp -rL " + folder.string() + " NEW");
    }
    if (!S_ISREG(status.st_mode)) throw BundleError(name + " is no regular file", folder.string(), kAgain);
    const Identity found = identity_of(status);
    if (size && found.size != *size)
        throw BundleError(name + " has " + std::to_string(found.size) + " bytes, not " + std::to_string(*size),
                          folder.string(), kAgain);
    return found;
}

}  // namespace tokexport
