// What release.json and artifact.json say, of the fields that are used here, checked.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "edgebuild/release.hpp"

namespace edgebuild::internal {

using Setting = std::variant<bool, std::int64_t, std::string>;
using Settings = std::map<std::string, Setting>;

struct Requires {
  std::string architecture, os, runtime, runtime_version;
  std::vector<std::string> isa;
  std::map<std::string, std::string> facts;
  std::optional<std::uint64_t> memory_bytes;
};

struct Release {
  Description said;
  Requires needs;
  Settings settings;
  std::string artifact_digest;
};

// A state that is fed back: `output` of one call is `input` of the next, `zero` of the first.
struct Link {
  std::string input, output;
  Tensor zero;
};

struct Contract {
  std::vector<Spec> inputs, outputs;
  Tensors constants;
  std::vector<Link> state;
};

// Where a chain may end: with `output` as its answer where `confidence`, one number, reaches `threshold`.
struct Exit {
  std::string output, confidence;
  double threshold = 0.0;
};

struct Stage;

// `weights` is the weights file, empty where there is none; it holds `weights_bytes` of tensors at most.
struct Artifact {
  std::string backend, entry, precision, fp16;
  Contract contract;
  Settings load;
  std::string weights;
  std::uint64_t weights_bytes = 0;
  std::vector<Stage> stages;
};

// One model of a chain, in a folder of the artifact's; the last one has no exit.
struct Stage {
  std::string folder;
  Artifact artifact;
  std::optional<Exit> exit;
};

struct Slot {
  std::filesystem::path folder;  // of the artifact
  Release release;
  Artifact artifact;
};

// Reads an installed release, every byte of its artifact checked. Throws Error.
Slot read_slot(const std::string& folder);

// Elements of a shape; nothing where it is too large for any machine, or a size is negative.
std::optional<std::uint64_t> elements(const std::vector<std::int64_t>& shape);

}  // namespace edgebuild::internal
