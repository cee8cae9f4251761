#include "weights.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <numeric>
#include <set>
#include <utility>

#include "files.hpp"

namespace edgebuild::internal {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "values are taken as they lie in the file");

// Magic, version, how many tensors, bytes behind the header, and a SHA-256 of all before it and all behind it.
constexpr std::size_t kDigested = 8 + 2 + 4 + 8, kHeader = kDigested + 32;
constexpr std::uint64_t kMaxBytes = std::uint64_t{1} << 32;
constexpr std::size_t kMaxAxes = 32;
constexpr unsigned kLongest = 16;
constexpr std::size_t kWindows = std::size_t{1} << kLongest;
constexpr unsigned kGaps = 1, kCodebook = 2;
constexpr DType kTypes[] = {DType::kFloat32, DType::kFloat16, DType::kFloat64, DType::kInt8,
                            DType::kUint8,   DType::kInt16,   DType::kUint16,  DType::kInt32,
                            DType::kUint32,  DType::kInt64,   DType::kUint64,  DType::kBool};

[[noreturn]] void damaged(const std::string& why) {
  throw Error("The release's weights file isn't what an encoder wrote: " + why + ".");
}

// A canonical Huffman code: which symbol the next 16 bits of a stream begin with, and how many of them it takes.
struct Code {
  std::array<std::uint16_t, kWindows> symbol;
  std::array<std::uint8_t, kWindows> length;
};

class Reader {
 public:
  Reader(const std::string& data, std::uint64_t room) : data_(data), at_(kHeader), room_(room) {}

  bool ended() const { return at_ == data_.size(); }

  Weight weight() {
    Weight made;
    const std::size_t length = number<std::uint16_t>();
    made.name.assign(take(length), length);
    if (!is_utf8(made.name)) damaged("a tensor's name isn't UTF-8");
    const unsigned kind = number<std::uint8_t>(), layout = number<std::uint8_t>(), axes = number<std::uint8_t>();
    if (kind >= std::size(kTypes) || layout > (kGaps | kCodebook) || axes > kMaxAxes) bad("is of no known kind");
    made.tensor.dtype = kTypes[kind];
    const std::size_t width = size_of(made.tensor.dtype);
    const std::uint64_t most = std::numeric_limits<std::int64_t>::max();
    std::uint64_t size = width, extent = width;
    for (unsigned axis = 0; axis < axes; ++axis) {
      const std::uint64_t side = number<std::uint32_t>(), least = std::max<std::uint64_t>(side, 1);
      if (extent > most / least) bad("has axes beyond all memory");
      extent *= least;
      size *= side;
      made.tensor.shape.push_back(static_cast<std::int64_t>(side));
    }
    if (size > room_) damaged("its tensors take more than the limit");
    room_ -= size;
    const std::size_t places = static_cast<std::size_t>(size / width);
    std::vector<std::byte>& bytes = made.tensor.bytes;
    if ((layout & kGaps) == 0) {
      bytes = values(places, width, layout);
      return made;
    }
    const std::vector<std::size_t> positions = positions_of(places);
    const std::vector<std::byte> found = values(positions.size(), width, layout);
    bytes.resize(places * width);
    for (std::size_t at = 0; at < positions.size(); ++at) {
      std::memcpy(bytes.data() + positions[at] * width, found.data() + at * width, width);
    }
    return made;
  }

 private:
  [[noreturn]] static void bad(const std::string& why) { damaged("a tensor " + why); }

  const char* take(std::size_t size) {
    if (size > data_.size() - at_) damaged("it ends in the middle of a tensor");
    at_ += size;
    return data_.data() + at_ - size;
  }

  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof(T)), sizeof(T));
    return value;
  }

  // Where the values of a tensor with gaps lie.
  std::vector<std::size_t> positions_of(std::size_t places) {
    const std::size_t span = number<std::uint8_t>(), count = number<std::uint32_t>();
    if (span == 0 || count > places) bad("has more gaps than elements");
    std::vector<std::size_t> positions;
    std::uint64_t end = 0;
    for (const std::uint16_t gap : symbols(span + 1, count)) {
      end += gap == span ? span : std::size_t{gap} + 1;
      if (gap != span) positions.push_back(static_cast<std::size_t>(end) - 1);
    }
    if (end > places) bad("has gaps that lead out of it");
    return positions;
  }

  std::vector<std::byte> values(std::size_t count, std::size_t width, unsigned layout) {
    std::vector<std::byte> found(count * width);
    if ((layout & kCodebook) == 0) {
      const char* from = take(found.size());
      if (!found.empty()) std::memcpy(found.data(), from, found.size());
      return found;
    }
    const std::size_t entries = number<std::uint32_t>();
    if (entries > count) bad("has a codebook larger than itself");
    if (entries > kWindows) bad("has a codebook of too many entries");
    const char* book = take(entries * width);
    std::size_t at = 0;
    for (const std::uint16_t entry : symbols(entries, count)) {
      std::memcpy(found.data() + at++ * width, book + entry * width, width);
    }
    return found;
  }

  // Code lengths, and a stream of exactly so many symbols.
  std::vector<std::uint16_t> symbols(std::size_t alphabet, std::size_t count) {
    const auto* lengths = reinterpret_cast<const unsigned char*>(take(alphabet));
    const std::uint64_t bits = number<std::uint32_t>();
    const auto* stream = reinterpret_cast<const unsigned char*>(take(static_cast<std::size_t>((bits + 7) / 8)));
    if (count > bits) bad("has a stream that is shorter than its symbols");
    if (bits % 8 != 0 && (stream[bits / 8] & (0xFF >> bits % 8)) != 0) bad("has a stream that doesn't end in zeros");
    std::vector<std::size_t> used;
    for (std::size_t symbol = 0; symbol < alphabet; ++symbol) {
      if (lengths[symbol] != 0) used.push_back(symbol);
    }
    if (used.size() < 2) {
      const bool zeros = std::all_of(stream, stream + (bits + 7) / 8, [](unsigned char byte) { return byte == 0; });
      const bool fits = count == 0 || (used.size() == 1 && lengths[used[0]] == 1);
      if (bits != count || !zeros || !fits) bad("has a stream that doesn't fit its code");
      return std::vector<std::uint16_t>(count, count == 0 ? 0 : static_cast<std::uint16_t>(used[0]));
    }
    fill(used, lengths);
    return decoded(stream, bits, count);
  }

  // Makes the code of the symbols that are used: shorter codes come first, equally long ones in the symbols' order.
  void fill(std::vector<std::size_t> used, const unsigned char* lengths) {
    std::stable_sort(used.begin(), used.end(), [&](std::size_t a, std::size_t b) { return lengths[a] < lengths[b]; });
    if (lengths[used.back()] > kLongest) bad("has a code that is too long");
    const std::size_t whole = std::accumulate(used.begin(), used.end(), std::size_t{0}, [&](auto sum, auto symbol) {
      return sum + (kWindows >> lengths[symbol]);
    });
    if (whole != kWindows) bad("has a code that isn't complete");
    std::size_t at = 0;
    for (const std::size_t symbol : used) {
      for (const std::size_t end = at + (kWindows >> lengths[symbol]); at < end; ++at) {
        code_.symbol[at] = static_cast<std::uint16_t>(symbol);
        code_.length[at] = lengths[symbol];
      }
    }
  }

  std::vector<std::uint16_t> decoded(const unsigned char* stream, std::uint64_t bits, std::size_t count) const {
    const std::size_t size = static_cast<std::size_t>((bits + 7) / 8);
    const auto byte = [&](std::size_t at) { return at < size ? std::uint32_t{stream[at]} : std::uint32_t{0}; };
    std::vector<std::uint16_t> found(count);
    std::uint64_t at = 0;
    std::size_t made = 0;
    for (; at < bits && made < count; ++made) {
      const std::size_t first = static_cast<std::size_t>(at / 8);
      const std::uint32_t word = byte(first) << 16 | byte(first + 1) << 8 | byte(first + 2);
      const std::size_t window = word >> (8 - at % 8) & (kWindows - 1);
      found[made] = code_.symbol[window];
      at += code_.length[window];
    }
    if (at != bits || made != count) bad("has a stream of another number of symbols");
    return found;
  }

  const std::string& data_;
  std::size_t at_;
  std::uint64_t room_;
  Code code_{};
};

std::vector<Weight> decode(const std::string& data, std::uint64_t limit) {
  if (data.size() < kHeader || data.compare(0, 8, "EBWEIGHT") != 0) damaged("it is no weights file");
  std::uint16_t version;
  std::uint32_t count;
  std::uint64_t length;
  std::memcpy(&version, data.data() + 8, sizeof(version));
  std::memcpy(&count, data.data() + 10, sizeof(count));
  std::memcpy(&length, data.data() + 14, sizeof(length));
  if (version != 1) damaged("it is of another version than this loader reads");
  if (length != data.size() - kHeader) damaged("it has another number of bytes than it says");
  const std::string_view all = data;
  const std::string wanted = hex_of(all.substr(kDigested, kHeader - kDigested));
  if (sha256_of(all.substr(0, kDigested), all.substr(kHeader)) != wanted) damaged("its digest doesn't fit");
  Reader reader(data, limit);
  std::vector<Weight> found;
  std::set<std::string> names;
  for (; count > 0; --count) {
    found.push_back(reader.weight());
    if (!names.insert(found.back().name).second) damaged("it has two tensors of one name");
  }
  if (!reader.ended()) damaged("something follows its last tensor");
  return found;
}

}  // namespace

std::vector<Weight> weights_of(const std::filesystem::path& folder, const Artifact& artifact) {
  if (artifact.weights.empty()) return {};
  if (artifact.weights_bytes > kMaxBytes) throw Error("The release's weights are larger than this loader decodes.");
  const auto limit = static_cast<std::size_t>(artifact.weights_bytes);
  return decode(read_plain(folder / artifact.weights, limit), artifact.weights_bytes);
}

}  // namespace edgebuild::internal
