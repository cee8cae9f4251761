// Runs IR and ONNX files in OpenVINO, with the settings of edgebuild/backends/ov/device.py.
#include <algorithm>
#include <cctype>
#include <openvino/openvino.hpp>
#include <sstream>
#include <utility>

#include "files.hpp"
#include "session.hpp"
#include "weights.hpp"

namespace edgebuild::internal {
namespace {

// An IR without its weights, which is all text.
constexpr std::size_t kMaxDescribed = std::size_t{256} << 20;

const std::pair<DType, ov::element::Type> kTypes[] = {
    {DType::kFloat16, ov::element::f16}, {DType::kFloat32, ov::element::f32}, {DType::kFloat64, ov::element::f64},
    {DType::kInt8, ov::element::i8},     {DType::kInt16, ov::element::i16},   {DType::kInt32, ov::element::i32},
    {DType::kInt64, ov::element::i64},   {DType::kUint8, ov::element::u8},    {DType::kUint16, ov::element::u16},
    {DType::kUint32, ov::element::u32},  {DType::kUint64, ov::element::u64},  {DType::kBool, ov::element::boolean},
};

// OpenVINO wraps the sentence that matters in lines about where in its code it was thrown.
std::string telling(const std::string& said) {
  std::istringstream lines(said);
  std::string found;
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line.rfind("Exception from", 0) == 0 || line.rfind("Check '", 0) == 0) continue;
    found += (found.empty() ? "" : "; ") + line;
  }
  return line_of(found.empty() ? said : found);
}

// Does something with the runtime, whose exceptions become ours.
template <class Work>
auto attempt(const std::string& what, Work work) {
  try {
    return work();
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw Error("OpenVINO can't " + what + ": " + telling(error.what()));
  }
}

// The arithmetic is always stated: left alone, a CPU with bf16 or fp16 would silently compute in less than fp32.
ov::AnyMap config_of(const Settings& settings, const Artifact& artifact) {
  require_known(settings, {"hint", "inference_precision", "threads", "streams", "pinning", "requests"});
  require_known(artifact.load, {});
  std::string hint = setting(settings, "hint", std::string("latency"));
  std::transform(hint.begin(), hint.end(), hint.begin(), [](unsigned char c) { return std::toupper(c); });
  const char* kind = artifact.fp16 == "compute" ? "f16" : artifact.precision == "bf16" ? "bf16" : "f32";
  ov::AnyMap config{
      {"PERFORMANCE_HINT", hint},
      {"INFERENCE_PRECISION_HINT", setting(settings, "inference_precision", std::string(kind))},
  };
  // The plugin would round what such weights are multiplied with to 8 bits, call by call.
  if (artifact.precision == "int8-storage") config["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = std::string("0");
  if (settings.count("threads") != 0) {
    config["INFERENCE_NUM_THREADS"] = std::to_string(count_setting(settings, "threads", 0));
  }
  if (settings.count("streams") != 0) config["NUM_STREAMS"] = std::to_string(count_setting(settings, "streams", 1));
  if (settings.count("pinning") != 0) {
    config["ENABLE_CPU_PINNING"] = std::string(setting(settings, "pinning", false) ? "YES" : "NO");
  }
  return config;
}

std::set<std::string> names_of(const Contract& contract) {
  std::set<std::string> names;
  for (const Spec& spec : contract.inputs) names.insert(spec.name);
  for (const Spec& spec : contract.outputs) names.insert(spec.name);
  for (const auto& [name, value] : contract.constants) names.insert(name);
  for (const Link& link : contract.state) names.insert({link.input, link.output});
  return names;
}

// The names of a port that the contract knows; else one of its own.
std::set<std::string> names_of(const ov::Output<const ov::Node>& port, const std::set<std::string>& wanted) {
  std::set<std::string> known, all(port.get_names().begin(), port.get_names().end());
  for (const std::string& name : all) {
    if (wanted.count(name) != 0) known.insert(name);
  }
  if (!known.empty()) return known;
  return {all.empty() ? port.get_node()->get_friendly_name() : *all.begin()};
}

class OvModel : public Session {
 public:
  OvModel(const std::filesystem::path& folder, const Artifact& artifact, const Settings& settings) {
    const ov::AnyMap config = config_of(settings, artifact);
    const auto model = attempt("read " + artifact.entry, [&] { return read(folder, artifact); });
    compiled_ = attempt("compile " + artifact.entry, [&] { return core_.compile_model(model, "CPU", config); });
    attempt("start", [&] {
      request_ = compiled_.create_infer_request();
      const std::set<std::string> wanted = names_of(artifact.contract);
      for (const auto& port : compiled_.inputs()) input_names.push_back(*names_of(port, wanted).begin());
      for (std::size_t at = 0; at < compiled_.outputs().size(); ++at) {
        for (const std::string& name : names_of(compiled_.outputs()[at], wanted)) {
          output_names.push_back(name);
          ports_.push_back(at);
        }
      }
    });
  }

  std::vector<Tensor> run(const std::vector<const Tensor*>& inputs) override {
    return attempt("run the model", [&] {
      for (std::size_t at = 0; at < inputs.size(); ++at) put(*inputs[at], at);
      request_.infer();
      std::vector<Tensor> outputs;
      for (const std::size_t port : ports_) outputs.push_back(copy_of(request_.get_output_tensor(port)));
      return outputs;
    });
  }

 private:
  // With its weights where they were decoded: one part behind the other.
  std::shared_ptr<ov::Model> read(const std::filesystem::path& folder, const Artifact& artifact) {
    const std::filesystem::path path = folder / artifact.entry;
    const std::vector<Weight> weights = weights_of(folder, artifact);
    if (weights.empty()) return core_.read_model(path.string());
    std::size_t size = 0;
    for (const Weight& weight : weights) size += weight.tensor.bytes.size();
    ov::Tensor whole(ov::element::u8, {size});
    auto* to = static_cast<std::uint8_t*>(whole.data());
    for (const Weight& weight : weights) {
      const std::vector<std::byte>& bytes = weight.tensor.bytes;
      if (!bytes.empty()) std::memcpy(to, bytes.data(), bytes.size());
      to += bytes.size();
    }
    return core_.read_model(read_plain(path, kMaxDescribed), whole);
  }

  void put(const Tensor& tensor, std::size_t at) {
    ov::Tensor to = request_.get_input_tensor(at);
    const ov::Shape shape(tensor.shape.begin(), tensor.shape.end());
    if (to.get_shape() != shape) to.set_shape(shape);
    if (dtype_of_type(to.get_element_type()) != tensor.dtype || to.get_byte_size() != tensor.bytes.size()) {
      throw Error("The compiled model takes " + input_names[at] + " in another type than its contract says.");
    }
    if (!tensor.bytes.empty()) std::memcpy(to.data(), tensor.bytes.data(), tensor.bytes.size());
  }

  static DType dtype_of_type(const ov::element::Type& type) {
    for (const auto& [ours, theirs] : kTypes) {
      if (theirs == type) return ours;
    }
    throw Error("The model has values of a type that this loader doesn't know.");
  }

  static Tensor copy_of(const ov::Tensor& from) {
    const ov::Shape shape = from.get_shape();
    Tensor made{dtype_of_type(from.get_element_type()), {shape.begin(), shape.end()}, {}};
    made.bytes.resize(from.get_byte_size());
    if (!made.bytes.empty()) std::memcpy(made.bytes.data(), from.data(), made.bytes.size());
    return made;
  }

  ov::Core core_;
  ov::CompiledModel compiled_;
  ov::InferRequest request_;
  std::vector<std::size_t> ports_;  // of each of output_names
};

}  // namespace

std::string openvino_version() { return ov::get_openvino_version().buildNumber; }

std::unique_ptr<Session> open_openvino(const std::filesystem::path& folder, const Artifact& artifact,
                                       const Settings& settings) {
  return attempt("start", [&] { return std::make_unique<OvModel>(folder, artifact, settings); });
}

}  // namespace edgebuild::internal
