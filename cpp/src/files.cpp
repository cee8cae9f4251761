#include "files.hpp"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <set>
#include <vector>

#include "edgebuild/release.hpp"

namespace edgebuild::internal {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kChunk = 1 << 20;
constexpr std::size_t kMaxFiles = 20000;
constexpr int kMaxDepth = 64;

// A file that is open for reading.
class Plain {
 public:
  explicit Plain(const fs::path& path) : path_(path.string()) {
    handle_ = ::open(path_.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (handle_ < 0) fail(std::strerror(errno));
    struct stat about{};
    if (::fstat(handle_, &about) != 0 || !S_ISREG(about.st_mode)) {
      ::close(handle_);
      fail("it is not a plain file");
    }
  }
  ~Plain() { ::close(handle_); }
  Plain(const Plain&) = delete;
  Plain& operator=(const Plain&) = delete;

  // Fills a buffer as far as it goes; nothing at the file's end.
  std::size_t read(char* to, std::size_t size) {
    for (;;) {
      const ssize_t found = ::read(handle_, to, size);
      if (found >= 0) return static_cast<std::size_t>(found);
      if (errno != EINTR) fail(std::strerror(errno));
    }
  }

 private:
  [[noreturn]] void fail(const std::string& why) const { throw Error(path_ + " can't be read: " + why + "."); }
  std::string path_;
  int handle_ = -1;
};

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new()) { need(context_ && EVP_DigestInit_ex(context_, EVP_sha256(), nullptr) == 1); }
  ~Sha256() { EVP_MD_CTX_free(context_); }
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void update(const char* data, std::size_t size) { need(EVP_DigestUpdate(context_, data, size) == 1); }

  std::string hex() {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    need(EVP_DigestFinal_ex(context_, digest, &size) == 1);
    return hex_of({reinterpret_cast<const char*>(digest), size});
  }

 private:
  static void need(bool works) {
    if (!works) throw Error("OpenSSL computes no SHA-256 on this machine.");
  }
  EVP_MD_CTX* context_;
};

Digest digest_of(const fs::path& path) {
  Plain file(path);
  Sha256 hasher;
  Digest found;
  std::vector<char> chunk(kChunk);
  while (const std::size_t size = file.read(chunk.data(), chunk.size())) {
    hasher.update(chunk.data(), size);
    found.size += size;
  }
  found.sha256 = hasher.hex();
  return found;
}

// Where the text that begins with a quote at `at` ends, behind its other quote.
std::size_t past_string(const std::string& text, std::size_t at) {
  for (++at; at < text.size() && text[at] != '"'; ++at) {
    if (text[at] == '\\') ++at;
  }
  return at + 1;
}

}  // namespace

void refuse(const std::string& name, const std::string& what) {
  throw Error(name + " is not what was written: wrong " + what + ".");
}

std::string read_plain(const fs::path& path, std::size_t limit) {
  Plain file(path);
  std::string data;
  std::vector<char> chunk(kChunk);
  while (const std::size_t size = file.read(chunk.data(), chunk.size())) {
    data.append(chunk.data(), size);
    if (data.size() > limit) throw Error(path.string() + " is larger than any that is written.");
  }
  return data;
}

std::string sha256_of(std::string_view data, std::string_view more) {
  Sha256 hasher;
  hasher.update(data.data(), data.size());
  hasher.update(more.data(), more.size());
  return hasher.hex();
}

std::string hex_of(std::string_view bytes) {
  std::string text;
  for (const char each : bytes) {
    const auto byte = static_cast<unsigned char>(each);
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

bool is_utf8(const std::string& text) {
  try {
    static_cast<void>(Json(text).dump());  // refuses anything else
    return true;
  } catch (const Json::exception&) {
    return false;
  }
}

bool is_sha256(const std::string& text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

std::map<std::string, Digest> digests_of(const fs::path& folder) {
  if (!fs::is_directory(fs::symlink_status(folder))) throw Error(folder.string() + " is no folder.");
  std::map<std::string, Digest> found;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    const fs::file_status status = entry.symlink_status();
    if (fs::is_directory(status)) continue;
    if (!fs::is_regular_file(status)) throw Error(entry.path().string() + " is a link or a special file.");
    if (found.size() == kMaxFiles) throw Error(folder.string() + " holds more files than any release.");
    found[entry.path().lexically_relative(folder).generic_string()] = digest_of(entry.path());
  }
  return found;
}

Json parse(const std::string& text, const std::string& name) {
  std::vector<std::set<std::string>> names;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kMaxDepth) throw Error(name + " is nested too deeply.");
    if (event == Json::parse_event_t::object_start) names.emplace_back();
    if (event == Json::parse_event_t::object_end) names.pop_back();
    if (event == Json::parse_event_t::key && !names.back().insert(parsed.get_ref<const std::string&>()).second) {
      throw Error(name + " holds a name twice.");
    }
    return true;
  };
  try {
    Json value = Json::parse(text, watch);
    if (!value.is_object()) throw Error(name + " is no object of JSON.");
    return value;
  } catch (const Json::exception&) {
    throw Error(name + " isn't readable as JSON.");
  }
}

Unsealed unsealed(const std::string& text, const std::string& name) {
  static const std::string kKey = "\"sha256\":\"";
  const std::size_t length = kKey.size() + 64 + 1;
  int depth = 0;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const char letter = text[at];
    if (letter == '{' || letter == '[') ++depth;
    if (letter == '}' || letter == ']') --depth;
    if (letter != '"') continue;
    if (depth == 1 && text.compare(at, kKey.size(), kKey) == 0 && at + length < text.size()) {
      Unsealed found{text.substr(at + kKey.size(), 64), ""};
      std::string rest = text;
      // The comma that stood between it and its neighbour goes with it.
      if (text[at + length] == ',') {
        rest.erase(at, length + 1);
      } else {
        rest.erase(text[at - 1] == ',' ? at - 1 : at, length + (text[at - 1] == ',' ? 1 : 0));
      }
      if (rest.back() == '\n') rest.pop_back();
      found.digest = sha256_of(rest);
      return found;
    }
    at = past_string(text, at) - 1;
  }
  throw Error(name + " has no seal.");
}

const Json& field(const Json& object, const char* key, Json::value_t type, const std::string& name) {
  if (!object.is_object()) refuse(name, std::string("place of ") + key);
  const auto found = object.find(key);
  if (found == object.end() || found->type() != type) refuse(name, key);
  return *found;
}

const std::string& text_of(const Json& object, const char* key, const std::string& name) {
  return field(object, key, Json::value_t::string, name).get_ref<const std::string&>();
}

const Json& list_of(const Json& object, const char* key, const std::string& name) {
  return field(object, key, Json::value_t::array, name);
}

std::uint64_t count_of(const Json& value, const char* key, const std::string& name) {
  if (!value.is_number_unsigned()) refuse(name, key);
  return value.get<std::uint64_t>();
}

}  // namespace edgebuild::internal
