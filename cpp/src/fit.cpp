#include "fit.hpp"

#include <sys/utsname.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <set>
#include <sstream>

namespace edgebuild::internal {
namespace {

// What follows the colon in the first line of one of these keys.
std::string proc_field(const char* path, const std::set<std::string>& keys) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const std::size_t end = line.find_last_not_of(" \t", colon == 0 ? 0 : colon - 1);
    if (keys.count(line.substr(0, end + 1)) != 0) return line.substr(colon + 1);
  }
  return "";
}

std::set<std::string> cpu_features() {
  std::istringstream words(proc_field("/proc/cpuinfo", {"flags", "Features"}));
  std::set<std::string> found;
  for (std::string word; words >> word;) found.insert(word);
  return found;
}

std::uint64_t memory_bytes() {
  std::istringstream words(proc_field("/proc/meminfo", {"MemTotal"}));
  std::uint64_t kilobytes = 0;
  words >> kilobytes;
  return kilobytes * 1024;
}

// What Linux calls an architecture.
std::string machine_name(const std::string& architecture) {
  if (architecture == "amd64") return "x86_64";
  if (architecture == "arm64") return "aarch64";
  return architecture == "arm" ? "armv7l" : architecture;
}

}  // namespace

void require_fit(const Release& release, const std::string& runtime_version) {
  const Requires& needs = release.needs;
  std::string different;
  const auto differs = [&](const std::string& what) { different += (different.empty() ? "" : "; ") + what; };
  const auto equal = [&](const std::string& name, const std::string& wanted, const std::string& here) {
    if (wanted != here) differs(name + " must be " + wanted + ", it is " + here + " here");
  };
  utsname system{};
  if (::uname(&system) != 0) throw Error("The system doesn't say what machine this is.");
  std::string kernel = system.sysname;
  std::transform(kernel.begin(), kernel.end(), kernel.begin(), [](unsigned char c) { return std::tolower(c); });
  equal("architecture", machine_name(needs.architecture), system.machine);
  equal("system", needs.os, kernel);
  equal(needs.runtime, needs.runtime_version, runtime_version);
  for (const auto& [name, value] : needs.facts)
    differs(name + " must be " + value + ", which this loader can't look up");
  const std::set<std::string> features = cpu_features();
  std::string lacking;
  for (const std::string& feature : needs.isa) {
    if (features.count(feature) == 0) lacking += (lacking.empty() ? "" : ", ") + feature;
  }
  if (!lacking.empty()) differs("the CPU lacks " + lacking);
  const std::uint64_t memory = memory_bytes();
  if (needs.memory_bytes && memory != 0 && memory < *needs.memory_bytes) {
    differs(std::to_string(*needs.memory_bytes / 1000000) + " MB of memory are needed, there are " +
            std::to_string(memory / 1000000));
  }
  if (!different.empty()) {
    const Description& said = release.said;
    throw Error(said.project + " " + said.version + " for " + said.target + " is for another device: " + different +
                ".");
  }
}

}  // namespace edgebuild::internal
