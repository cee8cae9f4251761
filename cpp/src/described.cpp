#include "described.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <utility>

#include "files.hpp"

namespace edgebuild::internal {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxReleaseBytes = 8 << 20;
constexpr std::size_t kMaxManifestBytes = 32 << 20;
constexpr std::uint64_t kMaxElements = std::uint64_t{1} << 40;
// The constants and states of an edge model aren't larger, all together.
constexpr std::uint64_t kMaxHeldBytes = std::uint64_t{1} << 28;
constexpr std::size_t kSlotDigits = 16;

const char* const kManifest = "artifact.json";
const char* const kNotes = "notes.json";

DType dtype_named(const std::string& text, const std::string& name) {
  for (int at = 0; at <= static_cast<int>(DType::kBool); ++at) {
    if (text == name_of(static_cast<DType>(at))) return static_cast<DType>(at);
  }
  refuse(name, "dtype");
}

Setting setting_of(const Json& value, const std::string& name) {
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_number_integer() ||
      (value.is_number_unsigned() && value.get<std::uint64_t>() > std::numeric_limits<std::int64_t>::max())) {
    refuse(name, "settings");
  }
  return value.get<std::int64_t>();
}

Spec spec_of(const Json& value, const std::string& name) {
  Spec spec{text_of(value, "name", name), {}, dtype_named(text_of(value, "dtype", name), name)};
  for (const Json& axis : list_of(value, "shape", name)) {
    if (axis.is_string()) {
      spec.shape.push_back(kAnySize);
      continue;
    }
    const std::uint64_t size = count_of(axis, "shape", name);
    if (size > kMaxElements) refuse(name, "shape");
    spec.shape.push_back(static_cast<std::int64_t>(size));
  }
  return spec;
}

// A tensor of zeros of a spec, of the bytes that are left; axes that take any size count as 1.
Tensor zeros(const Spec& spec, std::uint64_t& left, const std::string& name) {
  Tensor made{spec.dtype, spec.shape, {}};
  for (std::int64_t& axis : made.shape) axis = axis == kAnySize ? 1 : axis;
  const auto count = elements(made.shape);
  if (!count || *count * size_of(spec.dtype) > left) refuse(name, "shape of " + spec.name);
  left -= *count * size_of(spec.dtype);
  made.bytes.resize(static_cast<std::size_t>(*count) * size_of(spec.dtype));
  return made;
}

// A number of JSON as one of C++; NaN and the infinities are texts.
template <class T>
T number_of(const Json& value, const std::string& name) {
  if constexpr (std::is_same_v<T, bool>) {
    if (value.is_boolean()) return value.get<bool>();
  } else if constexpr (std::is_floating_point_v<T>) {
    if (value == "NaN") return std::numeric_limits<T>::quiet_NaN();
    if (value == "Infinity") return std::numeric_limits<T>::infinity();
    if (value == "-Infinity") return -std::numeric_limits<T>::infinity();
    if (value.is_number() && std::fabs(value.get<double>()) <= static_cast<double>(std::numeric_limits<T>::max())) {
      return value.get<T>();
    }
  } else if (value.is_number_unsigned()) {
    const auto number = value.get<std::uint64_t>();
    if (number <= static_cast<std::uint64_t>(std::numeric_limits<T>::max())) return static_cast<T>(number);
  } else if (value.is_number_integer() && std::is_signed_v<T>) {
    const auto number = value.get<std::int64_t>();
    if (number >= static_cast<std::int64_t>(std::numeric_limits<T>::min())) return static_cast<T>(number);
  }
  refuse(name, "constant");
}

template <class T>
void put(const Json& value, std::byte* to, const std::string& name) {
  const T number = number_of<T>(value, name);
  std::memcpy(to, &number, sizeof(T));
}

void put_as(DType dtype, const Json& value, std::byte* to, const std::string& name) {
  switch (dtype) {
    case DType::kFloat32: return put<float>(value, to, name);
    case DType::kFloat64: return put<double>(value, to, name);
    case DType::kInt8: return put<std::int8_t>(value, to, name);
    case DType::kInt16: return put<std::int16_t>(value, to, name);
    case DType::kInt32: return put<std::int32_t>(value, to, name);
    case DType::kInt64: return put<std::int64_t>(value, to, name);
    case DType::kUint8: return put<std::uint8_t>(value, to, name);
    case DType::kUint16: return put<std::uint16_t>(value, to, name);
    case DType::kUint32: return put<std::uint32_t>(value, to, name);
    case DType::kUint64: return put<std::uint64_t>(value, to, name);
    case DType::kBool: return put<bool>(value, to, name);
    case DType::kFloat16: break;
  }
  throw Error("The model has a constant input in float16, which the C++ loader doesn't make; open it in Python.");
}

// A number fills the shape; a list fills its last axis, over and over.
Tensor constant_of(const Json& value, std::uint64_t& left, const std::string& name) {
  const Spec spec = spec_of(value, name);
  Tensor made = zeros(spec, left, name);
  const auto given = value.find("value");
  if (given == value.end()) refuse(name, "constant");
  const std::size_t count = given->is_array() ? given->size() : 1;
  const std::size_t width = size_of(spec.dtype), places = made.bytes.size() / width;
  const bool fits = count == 1 || (!made.shape.empty() && count == static_cast<std::size_t>(made.shape.back()));
  if (!fits || (places != 0 && count == 0)) refuse(name, "constant " + spec.name);
  if (given->is_array() && made.shape.empty()) refuse(name, "constant " + spec.name);
  for (std::size_t at = 0; at < std::min(count, places); ++at) {
    put_as(spec.dtype, given->is_array() ? (*given)[at] : *given, made.bytes.data() + at * width, name);
  }
  for (std::size_t at = count; at < places; at += count) {
    std::memcpy(made.bytes.data() + at * width, made.bytes.data(), count * width);
  }
  return made;
}

Contract contract_of(const Json& value, const std::string& name) {
  Contract contract;
  std::uint64_t left = kMaxHeldBytes;
  std::set<std::string> fed, answered;
  const auto once = [&](std::set<std::string>& names, const std::string& each) {
    if (!names.insert(each).second) refuse(name, "contract: " + each + " stands twice");
  };
  for (const Json& each : list_of(value, "inputs", name)) {
    once(fed, contract.inputs.emplace_back(spec_of(each, name)).name);
  }
  for (const Json& each : list_of(value, "outputs", name)) {
    once(answered, contract.outputs.emplace_back(spec_of(each, name)).name);
  }
  if (contract.inputs.empty() || contract.outputs.empty()) refuse(name, "contract");
  for (const Json& each : list_of(value, "constants", name)) {
    once(fed, text_of(each, "name", name));
    contract.constants[text_of(each, "name", name)] = constant_of(each, left, name);
  }
  Tensors states;
  for (const Json& each : list_of(value, "state_specs", name)) {
    const Spec spec = spec_of(each, name);
    once(fed, spec.name);
    states[spec.name] = zeros(spec, left, name);
  }
  for (const Json& each : list_of(value, "state", name)) {
    const auto zero = states.find(text_of(each, "input", name));
    if (zero == states.end()) refuse(name, "state");
    contract.state.push_back({zero->first, text_of(each, "output", name), std::move(zero->second)});
    states.erase(zero);
  }
  if (!states.empty()) refuse(name, "state");
  return contract;
}

Settings pairs_of(const Json& list, const std::string& name) {
  Settings found;
  for (const Json& pair : list) {
    if (!pair.is_array() || pair.size() != 2 || !pair[0].is_string()) refuse(name, "load");
    if (!found.emplace(pair[0].get<std::string>(), setting_of(pair[1], name)).second) refuse(name, "load");
  }
  return found;
}

Release release_of(const Json& value, const std::string& name) {
  Release release;
  if (count_of(field(value, "schema_version", Json::value_t::number_unsigned, name), "schema_version", name) != 1) {
    throw Error(name + " is of another version than this loader reads.");
  }
  const Json& needs = field(value, "requires", Json::value_t::object, name);
  release.said = {text_of(value, "project", name), text_of(value, "version", name),
                  text_of(value, "target", name),  text_of(value, "candidate", name),
                  text_of(needs, "runtime", name), text_of(needs, "runtime_version", name)};
  if (text_of(value, "artifact", name) != "artifact") refuse(name, "artifact");
  release.artifact_digest = text_of(value, "artifact_digest", name);
  for (const auto& [key, each] : field(value, "settings", Json::value_t::object, name).items()) {
    release.settings[key] = setting_of(each, name);
  }
  release.needs = {text_of(needs, "architecture", name),
                   text_of(needs, "os", name),
                   release.said.runtime,
                   release.said.runtime_version,
                   {},
                   {},
                   {}};
  for (const Json& each : list_of(needs, "isa", name)) {
    if (!each.is_string()) refuse(name, "isa");
    release.needs.isa.push_back(each.get<std::string>());
  }
  if (const auto memory = needs.find("memory_bytes"); memory != needs.end() && !memory->is_null()) {
    release.needs.memory_bytes = count_of(*memory, "memory_bytes", name);
  }
  if (needs.contains("facts")) {
    for (const auto& [key, each] : field(needs, "facts", Json::value_t::object, name).items()) {
      if (!each.is_string()) refuse(name, "facts");
      release.needs.facts[key] = each.get<std::string>();
    }
  }
  return release;
}

// What lies below a folder of `found`, seen from there.
std::map<std::string, Digest> below(const std::map<std::string, Digest>& found, const std::string& folder) {
  std::map<std::string, Digest> inside;
  const std::string start = folder + "/";
  for (auto each = found.lower_bound(start); each != found.end() && each->first.rfind(start, 0) == 0; ++each) {
    inside[each->first.substr(start.size())] = each->second;
  }
  return inside;
}

// Holds what lies in the artifact's folder against what artifact.json lists: the same files, byte by byte.
void check_files(const Json& manifest, std::map<std::string, Digest> found, const std::string& name) {
  found.erase(kManifest);
  found.erase(kNotes);
  for (const Json& each : list_of(manifest, "files", name)) {
    const std::string& path = text_of(each, "path", name);
    const Digest wanted{text_of(each, "sha256", name),
                        count_of(field(each, "size_bytes", Json::value_t::number_unsigned, name), "size_bytes", name)};
    const auto there = found.find(path);
    if (there == found.end()) throw Error("The artifact's file " + path + " is missing, or listed twice.");
    if (there->second != wanted) throw Error("The artifact's file " + path + " isn't what artifact.json lists.");
    found.erase(there);
  }
  if (!found.empty()) throw Error("The artifact's folder holds " + found.begin()->first + ", which isn't listed.");
}

Exit exit_of(const Json& value, const std::string& name) {
  const auto threshold = value.find("threshold");
  if (threshold == value.end() || !threshold->is_number()) refuse(name, "threshold");
  return {text_of(value, "output", name), text_of(value, "confidence", name), threshold->get<double>()};
}

// Takes what names a weights file out of what the runtimes are told.
void take_weights(Artifact& artifact, const std::map<std::string, Digest>& found, const std::string& name) {
  const auto file = artifact.load.find("weights"), bytes = artifact.load.find("weights_bytes");
  if (file == artifact.load.end()) return;
  const auto* path = std::get_if<std::string>(&file->second);
  const auto* most = bytes == artifact.load.end() ? nullptr : std::get_if<std::int64_t>(&bytes->second);
  if (path == nullptr || found.count(*path) == 0) refuse(name, "weights");
  if (most == nullptr || *most < 0) refuse(name, "weights_bytes");
  artifact.weights = *path;
  artifact.weights_bytes = static_cast<std::uint64_t>(*most);
  artifact.load.erase("weights");
  artifact.load.erase("weights_bytes");
}

Artifact artifact_of(const Json& value, const std::map<std::string, Digest>& found, const std::string& name) {
  check_files(value, found, name);
  const Json& precision = field(value, "precision", Json::value_t::object, name);
  Artifact artifact{text_of(value, "backend", name),
                    text_of(value, "entry", name),
                    text_of(precision, "kind", name),
                    "",
                    contract_of(field(value, "contract", Json::value_t::object, name), name),
                    pairs_of(list_of(value, "load", name), name),
                    "",
                    0,
                    {}};
  const auto fp16 = precision.find("fp16");
  if (fp16 != precision.end() && !fp16->is_null()) artifact.fp16 = text_of(precision, "fp16", name);
  if (found.count(artifact.entry) == 0 || artifact.entry == kManifest || artifact.entry == kNotes)
    refuse(name, "entry");
  take_weights(artifact, found, name);
  if (artifact.load.count("libraries") != 0) {
    throw Error("The release brings native code, which the C++ loader doesn't run; open it in Python.");
  }
  return artifact;
}

// Reads the models of a chain; `found` is what lies in the artifact's folder.
std::vector<Stage> stages_of(const Json& value, const fs::path& folder, const std::map<std::string, Digest>& found) {
  std::vector<Stage> stages;
  const Json& listed = list_of(value, "stages", kManifest);
  for (const Json& each : listed) {
    const std::string& place = text_of(each, "folder", kManifest);
    const std::string name = place + "/" + kManifest;
    const auto manifest = found.find(name);
    if (manifest == found.end()) refuse(kManifest, "stage");
    const std::string text = read_plain(folder / name, kMaxManifestBytes);
    if (sha256_of(text) != manifest->second.sha256) throw Error(name + " changed while it was read.");
    const Json fields = parse(text, name);
    if (!list_of(fields, "stages", name).empty()) throw Error("A stage of the release is a chain itself.");
    Stage stage{place, artifact_of(fields, below(found, place), name), {}};
    const auto way_out = each.find("exit");
    const bool ends = way_out == each.end() || way_out->is_null();
    if (ends != (stages.size() + 1 == listed.size())) refuse(kManifest, "exit: every stage but the last has one");
    if (!ends) stage.exit = exit_of(field(each, "exit", Json::value_t::object, kManifest), kManifest);
    stages.push_back(std::move(stage));
  }
  return stages;
}

bool is_slot(const fs::path& folder) {
  const std::string name = folder.filename().string();
  return name.size() == kSlotDigits && name.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// Holds release.json and the artifact's files against the slot's manifest, whose digest begins with the slot's name.
void check_slot(const fs::path& folder, const std::string& release, const std::map<std::string, Digest>& artifact) {
  const fs::path path = folder.string() + ".json";
  const std::string text = read_plain(path, kMaxReleaseBytes), name = path.string();
  if (sha256_of(text).compare(0, kSlotDigits, folder.filename().string()) != 0) {
    throw Error(name + " was damaged: it isn't what its name says.");
  }
  std::map<std::string, Digest> there{{"release.json", {sha256_of(release), release.size()}}};
  for (const auto& [file, digest] : artifact) there["artifact/" + file] = digest;
  const Json manifest = parse(text, name);
  for (const Json& layer : list_of(manifest, "layers", name)) {
    const Json& notes = field(layer, "annotations", Json::value_t::object, name);
    const std::string& file = text_of(notes, "org.cncf.model.filepath", name);
    if (file != "release.json" && file.compare(0, 9, "artifact/") != 0) continue;
    const auto found = there.find(file);
    if (found == there.end()) throw Error((folder / file).string() + " is missing, or listed twice.");
    if ("sha256:" + found->second.sha256 != text_of(layer, "digest", name)) {
      throw Error((folder / file).string() + " was changed after it was installed.");
    }
    there.erase(found);
  }
  if (!there.empty()) throw Error((folder / there.begin()->first).string() + " is none of the release's files.");
}

}  // namespace

std::optional<std::uint64_t> elements(const std::vector<std::int64_t>& shape) {
  std::uint64_t count = 1;
  for (const std::int64_t axis : shape) {
    if (axis < 0 || static_cast<std::uint64_t>(axis) > kMaxElements) return std::nullopt;
    if (axis != 0 && count > kMaxElements / static_cast<std::uint64_t>(axis)) return std::nullopt;
    count *= static_cast<std::uint64_t>(axis);
  }
  return count;
}

Slot read_slot(const std::string& given) {
  std::error_code problem;
  // Once: whatever `current` leads to a moment later, one release is read.
  const fs::path folder = fs::canonical(given, problem);
  if (problem || !fs::exists(folder / "release.json", problem)) throw Error(given + " is no installed release.");
  Slot slot;
  slot.folder = folder / "artifact";
  const std::string said = read_plain(folder / "release.json", kMaxReleaseBytes);
  const auto found = digests_of(slot.folder);
  if (is_slot(folder)) check_slot(folder, said, found);
  slot.release = release_of(parse(said, "release.json"), "release.json");
  const std::string text = read_plain(slot.folder / kManifest, kMaxManifestBytes);
  const Json manifest = parse(text, kManifest);
  const Unsealed seal = unsealed(text, kManifest);
  if (seal.digest != seal.seal) throw Error("artifact.json was changed: it doesn't match its own digest.");
  if (seal.digest != slot.release.artifact_digest) {
    throw Error("artifact.json isn't that of the release: release.json says another artifact_digest.");
  }
  slot.artifact = artifact_of(manifest, found, kManifest);
  slot.artifact.stages = stages_of(manifest, slot.folder, found);
  if (slot.artifact.backend != slot.release.needs.runtime) refuse("release.json", "runtime");
  for (const Stage& stage : slot.artifact.stages) {
    if (stage.artifact.backend != slot.artifact.backend) refuse(stage.folder + "/" + kManifest, "backend");
  }
  return slot;
}

}  // namespace edgebuild::internal
