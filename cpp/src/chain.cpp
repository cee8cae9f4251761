#include "chain.hpp"

#include <algorithm>
#include <map>
#include <utility>

namespace edgebuild::internal {
namespace {

// The one number of a tensor.
double number_in(const Tensor& tensor, const std::string& name) {
  if (tensor.bytes.size() == size_of(tensor.dtype)) {
    if (tensor.dtype == DType::kFloat32) return *tensor.values<float>();
    if (tensor.dtype == DType::kFloat64) return *tensor.values<double>();
  }
  throw Error("The confidence " + name + " is no single number in float32 or float64: the chain can't tell its end.");
}

std::size_t place_of(const Session& session, const std::string& output) {
  const auto found = std::find(session.output_names.begin(), session.output_names.end(), output);
  if (found == session.output_names.end()) throw Error("A stage of the chain has no output " + output + ".");
  return static_cast<std::size_t>(found - session.output_names.begin());
}

class Chain : public Session {
 public:
  Chain(const Slot& slot, Open open) {
    const Artifact& whole = slot.artifact;
    for (const Spec& spec : whole.contract.inputs) input_names.push_back(spec.name);
    for (const Spec& spec : whole.contract.outputs) output_names.push_back(spec.name);
    std::set<std::string> known(input_names.begin(), input_names.end());
    for (const Stage& stage : whole.stages) {
      Link link{open(slot.folder / stage.folder, stage.artifact, slot.release.settings), stage.exit, {}};
      for (const std::string& name : link.session->input_names) {
        if (known.count(name) != 0) continue;
        throw Error("The chain's " + stage.folder + " asks for " + name + ", which nothing makes.");
      }
      known.insert(link.session->output_names.begin(), link.session->output_names.end());
      if (stage.exit) {
        if (output_names.size() != 1) throw Error("A chain with early exits has one output, and this one has several.");
        link.places = {place_of(*link.session, stage.exit->output), place_of(*link.session, stage.exit->confidence)};
      } else {
        for (const std::string& name : output_names) link.places.push_back(place_of(*link.session, name));
      }
      links_.push_back(std::move(link));
    }
  }

  std::vector<Tensor> run(const std::vector<const Tensor*>& inputs) override {
    std::map<std::string, const Tensor*> values;
    for (std::size_t at = 0; at < inputs.size(); ++at) values[input_names[at]] = inputs[at];
    std::vector<std::vector<Tensor>> made(links_.size());
    for (std::size_t number = 0; number < links_.size(); ++number) {
      Link& link = links_[number];
      std::vector<const Tensor*> fed;
      for (const std::string& name : link.session->input_names) fed.push_back(values.at(name));
      std::vector<Tensor>& found = made[number] = link.session->run(fed);
      if (!link.exit) break;
      if (number_in(found[link.places[1]], link.exit->confidence) >= link.exit->threshold) {
        return {std::move(found[link.places[0]])};
      }
      for (std::size_t at = 0; at < found.size(); ++at) values[link.session->output_names[at]] = &found[at];
    }
    std::vector<Tensor> answers;
    for (const std::size_t place : links_.back().places) answers.push_back(std::move(made.back()[place]));
    return answers;
  }

 private:
  // `places` are those of the answer and the confidence where it has an exit, else of the chain's outputs.
  struct Link {
    std::unique_ptr<Session> session;
    std::optional<Exit> exit;
    std::vector<std::size_t> places;
  };
  std::vector<Link> links_;
};

}  // namespace

std::unique_ptr<Session> open_chain(const Slot& slot, Open open) { return std::make_unique<Chain>(slot, open); }

}  // namespace edgebuild::internal
