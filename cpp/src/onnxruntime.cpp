// Runs ONNX files in ONNX Runtime, with the settings of edgebuild/backends/ort/device.py.
#include <onnxruntime_c_api.h>

#include <cstdlib>
#include <mutex>
#include <utility>

#include "session.hpp"
#include "weights.hpp"

namespace edgebuild::internal {
namespace {

// As in device.py: this fusion takes longer than what it fuses.
const char* const kSlowFusion = "SkipLayerNormFusion";

const OrtApi& api() {
  static const OrtApi* const kFound = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (kFound == nullptr) throw Error("ONNX Runtime here is older than the header that the loader was built with.");
  return *kFound;
}

void check(OrtStatus* status, const std::string& what) {
  if (status == nullptr) return;
  const std::string said = line_of(api().GetErrorMessage(status));
  api().ReleaseStatus(status);
  throw Error("ONNX Runtime can't " + what + ": " + said);
}

// Owns something of the runtime's.
template <class T>
class Owned {
 public:
  using Release = void(ORT_API_CALL*)(T*);
  explicit Owned(Release release) : release_(release) {}
  ~Owned() { release_(value); }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  T* value = nullptr;

 private:
  Release release_;
};

constexpr std::pair<DType, ONNXTensorElementDataType> kTypes[] = {
    {DType::kFloat16, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16}, {DType::kFloat32, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},
    {DType::kFloat64, ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE},  {DType::kInt8, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8},
    {DType::kInt16, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16},     {DType::kInt32, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32},
    {DType::kInt64, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64},     {DType::kUint8, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8},
    {DType::kUint16, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16},   {DType::kUint32, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32},
    {DType::kUint64, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64},   {DType::kBool, ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL},
};

void configure(OrtSessionOptions* options, const Settings& settings, const Settings& load) {
  require_known(settings, {"threads", "spinning", "arena", "requests"});
  require_known(load, {"optimized", "bf16", "unpack", "disabled"});
  const auto set = [&](OrtStatus* status) { check(status, "take the settings"); };
  const auto entry = [&](const char* key, const std::string& value) {
    set(api().AddSessionConfigEntry(options, key, value.c_str()));
  };
  const bool optimized = setting(load, "optimized", false);
  set(api().SetSessionLogSeverityLevel(options, ORT_LOGGING_LEVEL_ERROR));
  set(api().SetSessionGraphOptimizationLevel(options, optimized ? ORT_DISABLE_ALL : ORT_ENABLE_ALL));
  set(api().SetSessionExecutionMode(options, ORT_SEQUENTIAL));
  set(api().SetInterOpNumThreads(options, 1));
  set(api().SetIntraOpNumThreads(options, count_setting(settings, "threads", 0)));
  set(setting(settings, "arena", true) ? api().EnableCpuMemArena(options) : api().DisableCpuMemArena(options));
  entry("session.intra_op.allow_spinning", setting(settings, "spinning", true) ? "1" : "0");
  if (setting(load, "bf16", false)) entry("mlas.enable_gemm_fastmath_arm64_bfloat16", "1");
  if (setting(load, "unpack", false)) entry("session.disable_quant_qdq", "1");
  std::string disabled = kSlowFusion;
  std::string more = setting(load, "disabled", std::string());
  for (char& letter : more) letter = letter == ',' ? ';' : letter;
  if (!more.empty()) disabled += ";" + more;
  entry("optimization.disable_specified_optimizers", disabled);
}

class OrtModel : public Session {
 public:
  OrtModel(const std::filesystem::path& folder, const Artifact& artifact, const Settings& settings)
      : environment_(api().ReleaseEnv), memory_(api().ReleaseMemoryInfo), session_(api().ReleaseSession) {
    static std::once_flag once;
    // The runtime reads it when its first environment is made.
    std::call_once(once, [] { ::setenv("ORT_DISABLE_TELEMETRY", "1", 0); });
    check(api().CreateEnv(ORT_LOGGING_LEVEL_ERROR, "edgebuild", &environment_.value), "start");
    check(api().DisableTelemetryEvents(environment_.value), "switch its telemetry off");
    check(api().CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory_.value), "start");
    Owned<OrtSessionOptions> options(api().ReleaseSessionOptions);
    check(api().CreateSessionOptions(&options.value), "start");
    configure(options.value, settings, artifact.load);
    weights_ = weights_of(folder, artifact);
    give_weights(options.value);
    const std::string path = (folder / artifact.entry).string();
    check(api().CreateSession(environment_.value, path.c_str(), options.value, &session_.value),
          "load " + artifact.entry);
    input_names = names(api().SessionGetInputCount, api().SessionGetInputName);
    output_names = names(api().SessionGetOutputCount, api().SessionGetOutputName);
  }

  std::vector<Tensor> run(const std::vector<const Tensor*>& inputs) override {
    std::vector<std::unique_ptr<Owned<OrtValue>>> given, found;
    std::vector<const OrtValue*> feeds;
    std::vector<const char*> in, out;
    for (const Tensor* tensor : inputs) {
      given.push_back(std::make_unique<Owned<OrtValue>>(api().ReleaseValue));
      feeds.push_back(given.back()->value = view_of(*tensor));
    }
    for (const std::string& name : input_names) in.push_back(name.c_str());
    for (const std::string& name : output_names) out.push_back(name.c_str());
    std::vector<OrtValue*> answers(out.size(), nullptr);
    OrtStatus* status = api().Run(session_.value, nullptr, in.data(), feeds.data(), feeds.size(), out.data(),
                                  out.size(), answers.data());
    for (OrtValue* answer : answers) {
      found.push_back(std::make_unique<Owned<OrtValue>>(api().ReleaseValue));
      found.back()->value = answer;
    }
    check(status, "run the model");
    std::vector<Tensor> outputs;
    for (const auto& each : found) outputs.push_back(copy_of(each->value));
    return outputs;
  }

 private:
  // What the model's file says lies elsewhere, by name.
  void give_weights(OrtSessionOptions* options) const {
    std::vector<std::unique_ptr<Owned<OrtValue>>> owned;
    std::vector<const OrtValue*> values;
    std::vector<const char*> given;
    for (const Weight& weight : weights_) {
      owned.push_back(std::make_unique<Owned<OrtValue>>(api().ReleaseValue));
      values.push_back(owned.back()->value = view_of(weight.tensor));
      given.push_back(weight.name.c_str());
    }
    if (values.empty()) return;
    check(api().AddExternalInitializers(options, given.data(), values.data(), values.size()), "take the weights");
  }

  template <class Count, class Name>
  std::vector<std::string> names(Count count_of, Name name_at) const {
    OrtAllocator* allocator = nullptr;
    check(api().GetAllocatorWithDefaultOptions(&allocator), "start");
    std::size_t count = 0;
    check(count_of(session_.value, &count), "name its inputs and outputs");
    std::vector<std::string> found;
    for (std::size_t at = 0; at < count; ++at) {
      char* name = nullptr;
      check(name_at(session_.value, at, allocator, &name), "name its inputs and outputs");
      found.emplace_back(name);
      check(api().AllocatorFree(allocator, name), "free memory");
    }
    return found;
  }

  // The runtime reads it and never writes it.
  OrtValue* view_of(const Tensor& tensor) const {
    OrtValue* made = nullptr;
    for (const auto& [ours, theirs] : kTypes) {
      if (ours != tensor.dtype) continue;
      check(api().CreateTensorWithDataAsOrtValue(memory_.value, const_cast<std::byte*>(tensor.bytes.data()),
                                                 tensor.bytes.size(), tensor.shape.data(), tensor.shape.size(), theirs,
                                                 &made),
            "take an input");
    }
    return made;
  }

  static Tensor copy_of(OrtValue* value) {
    int is_tensor = 0;
    if (value != nullptr) check(api().IsTensor(value, &is_tensor), "tell its outputs");
    if (is_tensor == 0) throw Error("The model answers with something that isn't a tensor.");
    Owned<OrtTensorTypeAndShapeInfo> about(api().ReleaseTensorTypeAndShapeInfo);
    check(api().GetTensorTypeAndShape(value, &about.value), "tell its outputs");
    ONNXTensorElementDataType type{};
    std::size_t axes = 0, count = 0;
    check(api().GetTensorElementType(about.value, &type), "tell its outputs");
    check(api().GetDimensionsCount(about.value, &axes), "tell its outputs");
    check(api().GetTensorShapeElementCount(about.value, &count), "tell its outputs");
    for (const auto& [ours, theirs] : kTypes) {
      if (theirs != type) continue;
      Tensor made{ours, std::vector<std::int64_t>(axes), std::vector<std::byte>(count * size_of(ours))};
      check(api().GetDimensions(about.value, made.shape.data(), axes), "tell its outputs");
      void* data = nullptr;
      check(api().GetTensorMutableData(value, &data), "tell its outputs");
      if (count != 0) std::memcpy(made.bytes.data(), data, made.bytes.size());
      return made;
    }
    throw Error("The model answers with values of a type that this loader doesn't know.");
  }

  std::vector<Weight> weights_;  // the session may look into their memory
  Owned<OrtEnv> environment_;
  Owned<OrtMemoryInfo> memory_;
  Owned<OrtSession> session_;
};

}  // namespace

std::string onnxruntime_version() { return OrtGetApiBase()->GetVersionString(); }

std::unique_ptr<Session> open_onnxruntime(const std::filesystem::path& folder, const Artifact& artifact,
                                          const Settings& settings) {
  return std::make_unique<OrtModel>(folder, artifact, settings);
}

}  // namespace edgebuild::internal
