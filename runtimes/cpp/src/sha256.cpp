#include "sha256.h"

#include <openssl/evp.h>

#include <memory>
#include <system_error>

#include "files.h"
#include "schema.h"
#include "tokexport/errors.h"

namespace tokexport {

std::string sha256(const std::filesystem::path& path) {
    const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
    if (!context || EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) != 1)
        throw MissingError("this OpenSSL computes no SHA-256", "", "Use an OpenSSL with its default provider.");
    try {
        RegularFile file(path);
        for (std::string chunk; !(chunk = file.read(1 << 20)).empty();)
            EVP_DigestUpdate(context.get(), chunk.data(), chunk.size());
    } catch (const std::system_error& error) {
        throw BundleError("a file cannot be read: " + error.code().message(), path.string(), kAgain);
    }
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int length = 0;
    EVP_DigestFinal_ex(context.get(), digest, &length);
    std::string text;
    for (unsigned int i = 0; i < length; ++i) {
        text += "0123456789abcdef"[digest[i] >> 4];
        text += "0123456789abcdef"[digest[i] & 15];
    }
    return text;
}

}  // namespace tokexport
