#include "edgebuild/release.hpp"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "chain.hpp"
#include "described.hpp"
#include "fit.hpp"
#include "session.hpp"

namespace edgebuild {

using internal::Session;
using internal::Slot;

const char* name_of(DType dtype) {
  static const char* const kNames[] = {"float16", "float32", "float64", "int8",   "int16",  "int32",
                                       "int64",   "uint8",   "uint16",  "uint32", "uint64", "bool"};
  return kNames[static_cast<int>(dtype)];
}

std::size_t size_of(DType dtype) {
  static const std::size_t kSizes[] = {2, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8, 1};
  return kSizes[static_cast<int>(dtype)];
}

namespace internal {

int count_setting(const Settings& settings, const std::string& name, std::int64_t otherwise) {
  constexpr std::int64_t kMost = 4096;
  const std::int64_t value = setting<std::int64_t>(settings, name, otherwise);
  if (value < 0 || value > kMost) throw Error("The setting " + name + " is no count that a runtime takes.");
  return static_cast<int>(value);
}

void require_known(const Settings& settings, const std::set<std::string>& known) {
  for (const auto& [name, value] : settings) {
    if (known.count(name) == 0)
      throw Error("The release has the setting " + name + ", which this loader doesn't know.");
  }
}

std::string line_of(const std::string& said) {
  constexpr std::size_t kMost = 600;
  return said.substr(0, std::min(said.find('\n'), kMost));
}

namespace {

struct Runtime {
  std::string (*version)();
  Open open;
};

Runtime runtime_named(const std::string& name) {
#ifdef EDGEBUILD_ONNXRUNTIME
  if (name == "onnxruntime") return {onnxruntime_version, open_onnxruntime};
#endif
#ifdef EDGEBUILD_OPENVINO
  if (name == "openvino") return {openvino_version, open_openvino};
#endif
  throw Error("The release is for the runtime " + name + ", and this loader was built without it.");
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const std::int64_t axis : shape) {
    text += (text.empty() ? "" : ", ") + (axis == kAnySize ? std::string("any") : std::to_string(axis));
  }
  return "[" + text + "]";
}

void require_fitting(const Spec& spec, const Tensor& tensor) {
  bool fits = tensor.dtype == spec.dtype && tensor.shape.size() == spec.shape.size();
  for (std::size_t at = 0; fits && at < spec.shape.size(); ++at) {
    fits = tensor.shape[at] >= 0 && (spec.shape[at] == kAnySize || spec.shape[at] == tensor.shape[at]);
  }
  if (!fits) {
    throw Error("Input " + spec.name + " must be " + name_of(spec.dtype) + " of shape " + shape_text(spec.shape) +
                ", it is " + name_of(tensor.dtype) + " of " + shape_text(tensor.shape) + ".");
  }
  const auto count = elements(tensor.shape);
  if (!count || *count * size_of(tensor.dtype) != tensor.bytes.size()) {
    throw Error("Input " + spec.name + " holds another number of bytes than its shape says.");
  }
}

}  // namespace
}  // namespace internal

struct Model::Parts {
  Slot slot;
  std::unique_ptr<Session> session;
  std::vector<Tensor> state;               // as the contract's links
  std::vector<std::size_t> state_places;   // of each link's output among the session's
  std::vector<std::size_t> output_places;  // of each output of the contract

  const internal::Contract& contract() const { return slot.artifact.contract; }

  void reset() {
    state.clear();
    for (const internal::Link& link : contract().state) state.push_back(link.zero);
  }

  std::size_t place_of(const std::string& output) const {
    const auto& names = session->output_names;
    const auto found = std::find(names.begin(), names.end(), output);
    if (found == names.end()) throw Error("The compiled model has no output " + output + ".");
    return static_cast<std::size_t>(found - names.begin());
  }

  // Where an input of the session comes from: the caller, a constant, or the state.
  const Tensor& fed(const std::string& name, const Tensors& inputs) const {
    if (const auto given = inputs.find(name); given != inputs.end()) return given->second;
    if (const auto fixed = contract().constants.find(name); fixed != contract().constants.end()) return fixed->second;
    for (std::size_t at = 0; at < contract().state.size(); ++at) {
      if (contract().state[at].input == name) return state[at];
    }
    throw Error("The compiled model asks for " + name + ", which isn't in its contract.");
  }

  // Throws where the compiled model and its contract differ.
  void bind() {
    std::set<std::string> known;
    for (const Spec& spec : contract().inputs) known.insert(spec.name);
    for (const auto& [name, value] : contract().constants) known.insert(name);
    for (const internal::Link& link : contract().state) known.insert(link.input);
    for (const std::string& name : session->input_names) {
      if (known.count(name) == 0) throw Error("The compiled model asks for " + name + ", which isn't in its contract.");
    }
    for (const Spec& spec : contract().outputs) output_places.push_back(place_of(spec.name));
    for (const internal::Link& link : contract().state) state_places.push_back(place_of(link.output));
    reset();
  }
};

Model::Model(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;
Model::~Model() = default;

const Description& Model::release() const { return parts_->slot.release.said; }
const std::vector<Spec>& Model::inputs() const { return parts_->contract().inputs; }
const std::vector<Spec>& Model::outputs() const { return parts_->contract().outputs; }
void Model::reset() { parts_->reset(); }

Tensors Model::run(const Tensors& inputs) {
  for (const Spec& spec : this->inputs()) {
    const auto found = inputs.find(spec.name);
    if (found == inputs.end()) throw Error("Input " + spec.name + " is missing.");
    internal::require_fitting(spec, found->second);
  }
  if (inputs.size() != this->inputs().size()) throw Error(release().project + " takes fewer inputs than were given.");
  std::vector<const Tensor*> fed;
  for (const std::string& name : parts_->session->input_names) fed.push_back(&parts_->fed(name, inputs));
  std::vector<Tensor> found = parts_->session->run(fed);
  for (std::size_t at = 0; at < parts_->state.size(); ++at) parts_->state[at] = found[parts_->state_places[at]];
  Tensors outputs;
  for (std::size_t at = 0; at < this->outputs().size(); ++at) {
    outputs[this->outputs()[at].name] = std::move(found[parts_->output_places[at]]);
  }
  return outputs;
}

Model load(const std::string& folder) {
  try {
    auto parts = std::make_unique<Model::Parts>();
    parts->slot = internal::read_slot(folder);
    const internal::Runtime runtime = internal::runtime_named(parts->slot.release.needs.runtime);
    internal::require_fit(parts->slot.release, runtime.version());
    const Slot& slot = parts->slot;
    parts->session = slot.artifact.stages.empty() ? runtime.open(slot.folder, slot.artifact, slot.release.settings)
                                                  : internal::open_chain(slot, runtime.open);
    parts->bind();
    return Model(std::move(parts));
  } catch (const std::filesystem::filesystem_error& error) {
    throw Error(error.path1().string() + " can't be read: " + error.code().message() + ".");
  }
}

}  // namespace edgebuild
