// Files and JSON of strangers: bounded, links refused, and read as what they are or not at all.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace edgebuild::internal {

using Json = nlohmann::json;

struct Digest {
  std::string sha256;
  std::uint64_t size = 0;
  bool operator==(const Digest& other) const { return sha256 == other.sha256 && size == other.size; }
  bool operator!=(const Digest& other) const { return !(*this == other); }
};

// The bytes of a plain file. Throws Error for a larger or another one.
std::string read_plain(const std::filesystem::path& path, std::size_t limit);

std::string sha256_of(std::string_view data, std::string_view more = {});
std::string hex_of(std::string_view bytes);
bool is_utf8(const std::string& text);
bool is_sha256(const std::string& text);

// Every file below a folder, by its relative path. Throws Error for links and special files.
std::map<std::string, Digest> digests_of(const std::filesystem::path& folder);

// An object of JSON. Throws Error for another value, a name that stands twice, and what is nested deeply.
Json parse(const std::string& text, const std::string& name);

struct Unsealed {
  std::string seal;    // the digest that the text says of itself
  std::string digest;  // the digest of the text without it
};

// Takes the field "sha256" out of an object's canonical JSON, as artifact.json is sealed.
Unsealed unsealed(const std::string& text, const std::string& name);

// A field of its type. Each throws Error where it isn't.
const Json& field(const Json& object, const char* key, Json::value_t type, const std::string& name);
const std::string& text_of(const Json& object, const char* key, const std::string& name);
const Json& list_of(const Json& object, const char* key, const std::string& name);
std::uint64_t count_of(const Json& value, const char* key, const std::string& name);
[[noreturn]] void refuse(const std::string& name, const std::string& what);

}  // namespace edgebuild::internal
