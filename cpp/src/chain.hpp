// A chain of models that may end early, as one session.
#pragma once

#include <memory>

#include "session.hpp"

namespace edgebuild::internal {

// Opens one model of a folder in the runtime, with settings.
using Open = std::unique_ptr<Session> (*)(const std::filesystem::path&, const Artifact&, const Settings&);

// Opens stage after stage. A call runs them in their order until the confidence of one reaches its exit's threshold.
// Throws Error for a stage that asks for what nothing before it makes.
std::unique_ptr<Session> open_chain(const Slot& slot, Open open);

}  // namespace edgebuild::internal
