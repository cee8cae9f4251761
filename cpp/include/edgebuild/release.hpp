// Opens an installed release of edgebuild in the runtime that it was measured in. See ../../README.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace edgebuild {

// What ends the work; what() is one sentence that says what is wrong.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

enum class DType {
  kFloat16,
  kFloat32,
  kFloat64,
  kInt8,
  kInt16,
  kInt32,
  kInt64,
  kUint8,
  kUint16,
  kUint32,
  kUint64,
  kBool
};

// The name in a contract, such as "float32".
const char* name_of(DType dtype);
// Bytes of one element.
std::size_t size_of(DType dtype);

template <class T>
constexpr DType dtype_of() {
  static_assert(std::is_arithmetic_v<T>, "float16 has no type in C++17: fill Tensor::bytes");
  if constexpr (std::is_same_v<T, bool>) return DType::kBool;
  if constexpr (std::is_same_v<T, float>) return DType::kFloat32;
  if constexpr (std::is_same_v<T, double>) return DType::kFloat64;
  if constexpr (std::is_integral_v<T> && std::is_signed_v<T>) {
    return sizeof(T) == 1   ? DType::kInt8
           : sizeof(T) == 2 ? DType::kInt16
           : sizeof(T) == 4 ? DType::kInt32
                            : DType::kInt64;
  }
  return sizeof(T) == 1   ? DType::kUint8
         : sizeof(T) == 2 ? DType::kUint16
         : sizeof(T) == 4 ? DType::kUint32
                          : DType::kUint64;
}

// An array in C order, in this machine's byte order.
struct Tensor {
  DType dtype = DType::kFloat32;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> bytes;

  template <class T>
  static Tensor of(std::vector<std::int64_t> shape, const std::vector<T>& values) {
    static_assert(!std::is_same_v<T, bool>, "std::vector<bool> holds no bytes: fill Tensor::bytes");
    Tensor made{dtype_of<T>(), std::move(shape), std::vector<std::byte>(values.size() * sizeof(T))};
    if (!values.empty()) std::memcpy(made.bytes.data(), values.data(), made.bytes.size());
    return made;
  }

  // The values; throws Error where they are of another type.
  template <class T>
  const T* values() const {
    if (dtype != dtype_of<T>()) throw Error(std::string("The tensor is ") + name_of(dtype) + ".");
    return reinterpret_cast<const T*>(bytes.data());
  }
};

using Tensors = std::map<std::string, Tensor>;

constexpr std::int64_t kAnySize = -1;

// An input or output. An axis of kAnySize takes any size.
struct Spec {
  std::string name;
  std::vector<std::int64_t> shape;
  DType dtype = DType::kFloat32;
};

// What a release says of itself.
struct Description {
  std::string project, version, target, candidate, runtime, runtime_version;
};

// An opened release. Use it in one thread at a time.
class Model {
 public:
  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;
  ~Model();

  const Description& release() const;
  const std::vector<Spec>& inputs() const;
  const std::vector<Spec>& outputs() const;

  // Answers one call: inputs and outputs by name, in the shipped shape, batch included. A recurrent model keeps its
  // state from call to call. Throws Error for inputs that the contract doesn't know, and where the runtime fails.
  Tensors run(const Tensors& inputs);

  // Starts the state of a recurrent model again.
  void reset();

 private:
  struct Parts;
  friend Model load(const std::string& folder);
  explicit Model(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

// Opens the folder of an installed release, such as ROOT/current. Its bytes are checked first, then this machine and
// the runtime against what the release requires, and only then is the model opened. Throws Error.
Model load(const std::string& folder);

}  // namespace edgebuild
