// The weights file (docs/weights-file.md): tensors as gaps between nonzero values, codebooks and Huffman codes.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "described.hpp"

namespace edgebuild::internal {

struct Weight {
  std::string name;
  Tensor tensor;
};

// The tensors of an artifact's weights file in their order; none where it ships its weights as they are. Throws Error
// for whatever no encoder wrote, before memory is taken that the file's size and the artifact's manifest don't bound.
std::vector<Weight> weights_of(const std::filesystem::path& folder, const Artifact& artifact);

}  // namespace edgebuild::internal
