// Opens an installed release and holds its answers against the golden vectors that it brings: golden ROOT/current
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "edgebuild/release.hpp"

namespace {

using edgebuild::DType;
using edgebuild::Error;
using edgebuild::Tensor;
using Json = nlohmann::json;

constexpr std::size_t kMaxBytes = 256 << 20;

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(path + " can't be read.");
  std::string data{std::istreambuf_iterator<char>(file), {}};
  if (data.size() > kMaxBytes) throw Error(path + " is too large for a golden vector.");
  return data;
}

// The file of a tensor; a slash in a name doesn't leave the folder.
std::string file_of(const std::string& name) {
  std::string file;
  for (const char letter : name) file += letter == '%' ? "%25" : letter == '/' ? "%2F" : std::string(1, letter);
  return file + ".npy";
}

// An array of a .npy file: numbers in C order, little-endian.
Tensor read_array(const std::string& path) {
  static const std::pair<const char*, DType> kKinds[] = {
      {"<f2", DType::kFloat16}, {"<f4", DType::kFloat32}, {"<f8", DType::kFloat64}, {"|i1", DType::kInt8},
      {"<i2", DType::kInt16},   {"<i4", DType::kInt32},   {"<i8", DType::kInt64},   {"|u1", DType::kUint8},
      {"<u2", DType::kUint16},  {"<u4", DType::kUint32},  {"<u8", DType::kUint64},  {"|b1", DType::kBool}};
  const std::string data = read(path);
  const auto byte = [&](std::size_t at) { return static_cast<std::size_t>(static_cast<unsigned char>(data[at])); };
  if (data.size() < 12 || data.compare(0, 6, "\x93NUMPY") != 0) throw Error(path + " is no array of numpy's.");
  const bool first = data[6] == 1;
  const std::size_t start = first ? 10 : 12;
  const std::size_t size = byte(8) | byte(9) << 8 | (first ? 0 : byte(10) << 16 | byte(11) << 24);
  if (size > data.size() - start) throw Error(path + " is no array of numpy's.");
  const std::string header = data.substr(start, size);
  const std::size_t open = header.find('('), close = header.find(')');
  if (header.find("'fortran_order': False") == std::string::npos || open == std::string::npos || close < open) {
    throw Error(path + " is no plain array.");
  }
  Tensor array;
  const auto kind = std::find_if(std::begin(kKinds), std::end(kKinds),
                                 [&](const auto& each) { return header.find(each.first) != std::string::npos; });
  if (kind == std::end(kKinds)) throw Error(path + " holds no plain numbers.");
  array.dtype = kind->second;
  std::size_t count = 1;
  const std::string sizes = header.substr(open + 1, close - open - 1);
  for (std::size_t at = 0; (at = sizes.find_first_of("0123456789", at)) != std::string::npos;) {
    const std::size_t end = std::min(sizes.find_first_not_of("0123456789", at), sizes.size());
    const std::size_t axis = end - at > 9 ? kMaxBytes + 1 : std::stoul(sizes.substr(at, end - at));
    if (axis > kMaxBytes || count * axis > kMaxBytes) throw Error(path + " is too large for a golden vector.");
    array.shape.push_back(static_cast<std::int64_t>(axis));
    count *= axis;
    at = end;
  }
  if (array.shape.empty() || data.size() - start - size != count * edgebuild::size_of(array.dtype)) {
    throw Error(path + " holds another number of values than its shape says.");
  }
  array.bytes.resize(data.size() - start - size);
  std::copy(data.begin() + static_cast<std::ptrdiff_t>(start + size), data.end(),
            reinterpret_cast<char*>(array.bytes.data()));
  return array;
}

template <class T>
double as(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return static_cast<double>(value);
}

double half(const std::byte* from) {
  std::uint16_t bits;
  std::memcpy(&bits, from, sizeof(bits));
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  double value = exponent == 0    ? std::ldexp(fraction, -24)
                 : exponent == 31 ? (fraction != 0 ? NAN : INFINITY)
                                  : std::ldexp(1024 + fraction, exponent - 25);
  return bits >> 15 != 0 ? -value : value;
}

double value_at(const Tensor& tensor, std::size_t at) {
  const std::byte* from = tensor.bytes.data() + at * edgebuild::size_of(tensor.dtype);
  switch (tensor.dtype) {
    case DType::kFloat16: return half(from);
    case DType::kFloat32: return as<float>(from);
    case DType::kFloat64: return as<double>(from);
    case DType::kInt8: return as<std::int8_t>(from);
    case DType::kInt16: return as<std::int16_t>(from);
    case DType::kInt32: return as<std::int32_t>(from);
    case DType::kInt64: return as<std::int64_t>(from);
    case DType::kUint8:
    case DType::kBool: return as<std::uint8_t>(from);
    case DType::kUint16: return as<std::uint16_t>(from);
    case DType::kUint32: return as<std::uint32_t>(from);
    case DType::kUint64: return as<std::uint64_t>(from);
  }
  return NAN;
}

std::size_t frames_of(const Tensor& array) { return static_cast<std::size_t>(array.shape.at(0)); }

// Puts frames of an array, by their numbers, behind one another.
Tensor take(const Tensor& array, const std::vector<std::size_t>& rows) {
  Tensor taken{array.dtype, array.shape, {}};
  taken.shape[0] = static_cast<std::int64_t>(rows.size());
  const std::size_t size = array.bytes.size() / frames_of(array);
  for (const std::size_t row : rows) {
    const auto begin = array.bytes.begin() + static_cast<std::ptrdiff_t>(row * size);
    taken.bytes.insert(taken.bytes.end(), begin, begin + static_cast<std::ptrdiff_t>(size));
  }
  return taken;
}

// One call: the frame of each place in the batch, the places that count, and whether the state starts again.
struct Call {
  std::vector<std::size_t> rows, keep;
  bool first;
};

// The samples side by side and step by step; what is left of the last batch repeats the last sample.
std::vector<Call> calls_of(const std::vector<std::size_t>& lengths, std::size_t batch) {
  std::vector<std::size_t> starts{0};
  for (const std::size_t length : lengths) starts.push_back(starts.back() + length);
  std::vector<Call> calls;
  for (std::size_t group = 0; group < lengths.size(); group += batch) {
    std::vector<std::size_t> members;
    for (std::size_t at = 0; at < batch; ++at) members.push_back(std::min(group + at, lengths.size() - 1));
    std::size_t steps = 0;
    for (const std::size_t member : members) steps = std::max(steps, lengths[member]);
    for (std::size_t step = 0; step < steps; ++step) {
      Call call{{}, {}, step == 0};
      for (std::size_t at = 0; at < batch; ++at) {
        const std::size_t length = lengths[members[at]];
        call.rows.push_back(starts[members[at]] + std::min(step, length - 1));
        if (group + at < lengths.size() && step < length) call.keep.push_back(at);
      }
      calls.push_back(call);
    }
  }
  return calls;
}

struct Golden {
  std::string name;
  double rtol, atol;
  Tensor expected;
};

// The largest error of a frame, as a share of what is allowed: at most 1 where the answer is right.
double excess(const Tensor& found, std::size_t place, const Golden& golden, std::size_t frame) {
  const std::size_t width = edgebuild::size_of(found.dtype), count = found.bytes.size() / frames_of(found) / width;
  if (found.dtype != golden.expected.dtype ||
      count != golden.expected.bytes.size() / frames_of(golden.expected) / width) {
    throw Error("Output " + golden.name + " is of another shape or type than its golden vector.");
  }
  double largest = 0.0, worst = 0.0;
  for (std::size_t at = 0; at < count; ++at) {
    const double value = std::fabs(value_at(golden.expected, frame * count + at));
    if (std::isfinite(value)) largest = std::max(largest, value);
  }
  const double allowed = golden.atol + golden.rtol * largest;
  for (std::size_t at = 0; at < count; ++at) {
    const double here = value_at(found, place * count + at), there = value_at(golden.expected, frame * count + at);
    if (here == there || (std::isnan(here) && std::isnan(there))) continue;
    const double error = std::fabs(here - there);
    worst = std::max(worst, std::isfinite(error) && allowed > 0.0 ? error / allowed : INFINITY);
  }
  return worst;
}

std::vector<Golden> golden_of(const std::string& folder) {
  std::vector<Golden> found;
  try {
    const Json described = Json::parse(read(folder + "/golden.json"));
    for (const Json& each : described.at("outputs")) {
      const auto name = each.at("name").get<std::string>();
      Tensor expected = read_array(folder + "/outputs/" + file_of(name));
      found.push_back({name, each.at("rtol").get<double>(), each.at("atol").get<double>(), std::move(expected)});
    }
  } catch (const Json::exception&) {
    throw Error(folder + "/golden.json is not what was written.");
  }
  return found;
}

std::vector<std::size_t> lengths_of(const std::string& folder, std::size_t frames) {
  std::vector<std::size_t> lengths(frames, 1);
  if (std::ifstream(folder + "/lengths.npy")) {
    const Tensor array = read_array(folder + "/lengths.npy");
    lengths.assign(array.values<std::int64_t>(), array.values<std::int64_t>() + frames_of(array));
  }
  std::size_t sum = 0;
  for (const std::size_t length : lengths) {
    if (length == 0 || length > frames - sum) throw Error("The golden inputs hold another number of frames.");
    sum += length;
  }
  if (sum != frames || frames == 0) throw Error("The golden inputs hold another number of frames.");
  return lengths;
}

double worst_of(edgebuild::Model& model, const std::string& folder) {
  edgebuild::Tensors inputs;
  for (const auto& spec : model.inputs()) inputs[spec.name] = read_array(folder + "/inputs/" + file_of(spec.name));
  const std::size_t frames = frames_of(inputs.begin()->second);
  const std::vector<Golden> golden = golden_of(folder);
  for (const auto& each : golden) {
    if (frames_of(each.expected) != frames) throw Error("The golden outputs hold another number of frames.");
  }
  for (const auto& [name, array] : inputs) {
    if (frames_of(array) != frames) throw Error("The golden inputs hold different numbers of frames.");
  }
  const auto& shape = model.inputs().front().shape;
  const std::size_t batch = shape.empty() || shape[0] < 1 ? 1 : static_cast<std::size_t>(shape[0]);
  double worst = 0.0;
  for (const Call& call : calls_of(lengths_of(folder + "/inputs", frames), batch)) {
    if (call.first) model.reset();
    edgebuild::Tensors fed;
    for (const auto& [name, array] : inputs) fed[name] = take(array, call.rows);
    const edgebuild::Tensors found = model.run(fed);
    for (const Golden& each : golden) {
      const auto output = found.find(each.name);
      if (output == found.end() || output->second.shape.empty() || frames_of(output->second) != batch) {
        throw Error("The artifact has no output " + each.name + " of that batch.");
      }
      for (const std::size_t place : call.keep) {
        worst = std::max(worst, excess(output->second, place, each, call.rows[place]));
      }
    }
  }
  return worst;
}

}  // namespace

int main(int count, char** words) {
  if (count != 2) {
    std::fprintf(stderr, "usage: golden ROOT/current\n");
    return 2;
  }
  try {
    const std::string folder = words[1];
    edgebuild::Model model = edgebuild::load(folder);
    const auto& said = model.release();
    const double worst = worst_of(model, folder + "/golden");
    std::printf("%s %s for %s in %s %s: off by %.3g of what is allowed\n", said.project.c_str(), said.version.c_str(),
                said.target.c_str(), said.runtime.c_str(), said.runtime_version.c_str(), worst);
    if (worst <= 1.0) return 0;
    std::fprintf(stderr, "The artifact answers wrong on this device.\n");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
  }
  return 7;
}
