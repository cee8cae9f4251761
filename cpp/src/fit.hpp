// Whether this machine is like the one that was measured.
#pragma once

#include <string>

#include "described.hpp"

namespace edgebuild::internal {

// Throws Error with everything in which this machine, and the runtime of that version, differ from what is required.
void require_fit(const Release& release, const std::string& runtime_version);

}  // namespace edgebuild::internal
