#include "tokexport/tokenizer.h"

#include <algorithm>
#include <system_error>

#include "decoders.h"
#include "fields.h"
#include "files.h"
#include "tokexport/errors.h"

namespace tokexport {
namespace {

constexpr std::int64_t kMostIds = INT32_MAX;

using Numbers = std::unordered_map<std::string, std::int64_t>;

// The ids of the model's own tokens: an object, or, of Unigram, a list of tokens with their scores.
Numbers model_ids(const Field& model) {
    Fields fields(model);
    if (const auto kind = fields.find("type")) kind->one_of({"BPE", "WordLevel", "WordPiece", "Unigram"});
    const Field vocabulary = fields.at("vocab");
    Numbers ids;
    if (!vocabulary.is_list()) {
        for (const auto& [token, id] : vocabulary.items()) ids[token] = id.integer(0, kMostIds);
        return ids;
    }
    std::int64_t next = 0;
    for (const Field& pair : vocabulary.list()) {
        const auto token = pair.list();
        pair.must(token.size() == 2, "it is no token with its score");
        ids[token[0].text()] = next++;
    }
    return ids;
}

}  // namespace

Tokenizer Tokenizer::load(const std::filesystem::path& path) {
    const auto refused = [&](const std::string& fact, const std::string& fix) {
        return BundleError("the tokenizer cannot be read: " + fact, path.string(), fix);
    };
    try {
        return read(RegularFile(path).content(kLargestText));
    } catch (const BadField& error) {
        throw refused(error.what(),
                      "Export the bundle again; what only the library `tokenizers` reads runs in Python: tokexport run.");
    } catch (const RequestError& error) {
        throw refused(error.fact(), "Export the bundle again.");
    } catch (const std::system_error& error) {
        throw refused(error.code().message(), "Export the bundle again.");
    }
}

Tokenizer Tokenizer::read(const std::string& text) {
    const Document document(text);
    Fields fields(document.root());
    Numbers ids = model_ids(fields.at("model"));
    const auto size = static_cast<std::int64_t>(ids.size());
    Tokenizer made;
    for (const auto& [token, id] : ids) made.tokens_[id] = token;
    // As the library does, whatever id the file says: a token that the model has keeps its id, another takes the next.
    std::int64_t next = size;
    if (const auto added = fields.optional("added_tokens")) {
        for (const Field& token : added->list()) {
            Fields inner(token);
            const std::string content = inner.at("content").text();
            const auto special = inner.find("special");
            if (content.empty()) continue;
            if (special && special->boolean()) made.special_.insert(content);
            if (ids.count(content)) continue;
            ids[content] = next;
            made.tokens_[next++] = content;
        }
    }
    for (const auto& [id, token] : made.tokens_) made.vocabulary_ = std::max(made.vocabulary_, id + 1);
    if (const auto decoder = fields.optional("decoder"))
        made.steps_ = decoder_steps(*decoder);
    else
        made.between_ = " ";
    return made;
}

std::string Tokenizer::decode(const Ids& ids) const {
    Pieces pieces;
    for (const std::int64_t id : ids) {
        const auto token = tokens_.find(id);
        if (token != tokens_.end() && !special_.count(token->second)) pieces.push_back(token->second);
    }
    for (const Step& step : steps_) pieces = step(pieces);
    std::string text;
    for (std::size_t i = 0; i < pieces.size(); ++i) text += (i ? between_ : "") + pieces[i];
    return text;
}

}  // namespace tokexport
