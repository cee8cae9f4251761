// One model in one runtime.
#pragma once

#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "described.hpp"

namespace edgebuild::internal {

class Session {
 public:
  virtual ~Session() = default;
  // In the runtime's order, by the contract's names.
  std::vector<std::string> input_names, output_names;
  // Answers one call, inputs in the order of input_names. Throws Error.
  virtual std::vector<Tensor> run(const std::vector<const Tensor*>& inputs) = 0;
};

// A setting of its type, or what counts where it isn't given. Throws Error for one of another type.
template <class T>
T setting(const Settings& settings, const std::string& name, T otherwise) {
  const auto found = settings.find(name);
  if (found == settings.end()) return otherwise;
  const T* value = std::get_if<T>(&found->second);
  if (value == nullptr) throw Error("The setting " + name + " is of another type than this loader knows.");
  return *value;
}

// A count that a runtime takes as an int.
int count_setting(const Settings& settings, const std::string& name, std::int64_t otherwise);

// Throws Error for a name that isn't known: what it asks for wouldn't be done.
void require_known(const Settings& settings, const std::set<std::string>& known);

// The first line of what a runtime said.
std::string line_of(const std::string& said);

#ifdef EDGEBUILD_ONNXRUNTIME
std::string onnxruntime_version();
std::unique_ptr<Session> open_onnxruntime(const std::filesystem::path& folder, const Artifact& artifact,
                                          const Settings& settings);
#endif
#ifdef EDGEBUILD_OPENVINO
std::string openvino_version();
std::unique_ptr<Session> open_openvino(const std::filesystem::path& folder, const Artifact& artifact,
                                       const Settings& settings);
#endif

}  // namespace edgebuild::internal
