#include "recompute.h"

#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/SafePyObject.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/generated/Functions.h>
#include <torch/library.h>

#include <atomic>
#include <typeindex>
#include <unordered_map>
#include <unordered_set>

#include "compat.h"

namespace acon {
namespace {

using torch::autograd::Node;
using torch::autograd::SavedVariable;

constexpr int64_t kLeastBytes = int64_t(1) << 18;

std::atomic<bool> enabled{true};
thread_local bool least = false;

// Recipes of the outputs of norms whose nodes are Python's, for the next call of an ACON.
thread_local std::unordered_map<const Node*, Recipe> offered;

// The most sums that are made again for one input, each out of the one before it.
constexpr int kMostSums = 3;

// The number of a node tells it from a later one at the same address.
struct Hash {
  size_t operator()(const std::pair<const Node*, uint64_t>& key) const {
    return std::hash<const Node*>()(key.first) ^ (key.second * 0x9e3779b97f4a7c15ull);
  }
};

// A training step up to its loss, in a thread.
struct Step {
  bool has_acon = false;
  std::unordered_set<std::pair<const Node*, uint64_t>, Hash> visited; // none is visited twice
};
constexpr size_t kMostVisited = 100000; // a loop that never calls recompute_outputs never ends a step

Step& step() {
  static thread_local Step current;
  return current;
}

// The operators that keep an input, by node: its place among the inputs, and where it is kept.
struct Kept {
  size_t input;
  SavedVariable& (*saved)(Node&);
};
using KeptByType = std::unordered_map<std::type_index, std::vector<Kept>>;

template <typename T, SavedVariable T::*member>
SavedVariable& saved_by(Node& node) {
  return static_cast<T&>(node).*member;
}

const KeptByType& kept_by_type() {
  using namespace torch::autograd::generated;
#define KEEPS(T, input, member) {input, &saved_by<T, &T::member>}
  static const KeptByType known = {
      {typeid(ConvolutionBackward0), {KEEPS(ConvolutionBackward0, 0, input_)}},
      {typeid(AddmmBackward0), {KEEPS(AddmmBackward0, 1, mat1_)}},
      {typeid(MmBackward0), {KEEPS(MmBackward0, 0, self_)}},
      {typeid(MaxPool2DWithIndicesBackward0), {KEEPS(MaxPool2DWithIndicesBackward0, 0, self_)}},
      {typeid(AvgPool2DBackward0), {KEEPS(AvgPool2DBackward0, 0, self_)}},
      {typeid(AdaptiveAvgPool2DBackward0), {KEEPS(AdaptiveAvgPool2DBackward0, 0, self_)}},
      {typeid(MulBackward0), {KEEPS(MulBackward0, 0, self_), KEEPS(MulBackward0, 1, other_)}},
      {typeid(NativeBatchNormBackward0), {KEEPS(NativeBatchNormBackward0, 0, input_)}},
      {typeid(CudnnBatchNormBackward0), {KEEPS(CudnnBatchNormBackward0, 0, input_)}},
      {typeid(NativeGroupNormBackward0), {KEEPS(NativeGroupNormBackward0, 0, input_)}},
      {typeid(NativeLayerNormBackward0), {KEEPS(NativeLayerNormBackward0, 0, input_)}},
  };
#undef KEEPS
  return known;
}

std::unordered_map<std::type_index, AconNode>& acons() {
  static std::unordered_map<std::type_index, AconNode> known;
  return known;
}

// Stands for the output of an ACON in the node that kept it.
class Recomputed : public torch::autograd::SavedVariableHooks {
 public:
  Recomputed(Recipe recipe, std::vector<int64_t> sizes) : recipe_(std::move(recipe)), sizes_(std::move(sizes)) {
    for (const Tensor& t : recipe_.tensors) {
      versions_.push_back(t.defined() ? t._version() : 0);
    }
  }

  void call_pack_hook(const Tensor&) override {} // the output is dropped

  Tensor call_unpack_hook() override {
    for (size_t i = 0; i < versions_.size(); ++i) {
      const Tensor& t = recipe_.tensors[i];
      if (!t.defined()) {
        continue;
      }
      TORCH_CHECK(
          t._version() == versions_[i],
          "one of the variables needed for gradient computation has been modified by an inplace operation: the input "
          "or a parameter of an ACON, of shape ", t.sizes(), ", which the backward pass of the layer after it needs "
          "to make the ACON's output again. acon_mm.ops.memory.keep_outputs() turns that off");
    }
    const Tensor y = recipe_.make();
    return y.sizes() == sizes_ ? y : y.view(sizes_);
  }

  // For compiled autograd: there are no Python hooks here.
  std::optional<std::pair<c10::SafePyObject, c10::SafePyObject>> retrieve_unpack_hook_data() const {
    return std::nullopt;
  }

 private:
  Recipe recipe_;
  std::vector<int64_t> sizes_; // of the output, or of a view of it
  std::vector<int64_t> versions_;
};

// A wrapper around the model may make parameters anew out of others, and free them before backward. One with a value per
// sample is no parameter of a model.
bool stays(const Tensor& parameter) {
  return !parameter.requires_grad() || parameter.is_leaf() || parameter.dim() > 1;
}

// Whether the node is of an operator that gives the same elements in the same order another shape.
bool is_view(const Node& node) {
  using namespace torch::autograd::generated;
  return typeid(node) == typeid(ViewBackward0) || typeid(node) == typeid(UnsafeViewBackward0);
}

// Where an ACON that may be part of a sum has the version of its output.
constexpr const char* kVersion = "version";

std::optional<Recipe> recipe_of_acon(const AconNode& acon, Node& node) {
  std::optional<Recipe> recipe;
  try {
    recipe = acon.recipe(acon.context(node));
  } catch (const c10::Error&) { // what the ACON saved was changed or freed, which its own backward will say
  }
  const auto parameters_stay = [&] { // p1, p2 and beta
    return std::all_of(recipe->tensors.end() - 3, recipe->tensors.end(), stays);
  };
  return recipe && parameters_stay() ? recipe : std::nullopt;
}

// Puts recipes in place of what `node` keeps of its inputs.
void recompute_inputs(Node& node) {
  const auto found = kept_by_type().find(typeid(node));
  if (found == kept_by_type().end()) {
    return;
  }
  for (const Kept& kept : found->second) {
    const auto* edge = &node.next_edge(kept.input);
    while (edge->function && is_view(*edge->function)) {
      edge = &edge->function->next_edge(0);
    }
    if (!edge->function) {
      continue;
    }
    const auto acon = acons().find(typeid(*edge->function));
    // An edge leads to the ACON only from its output itself, not from what was changed in place.
    if (acon == acons().end() || edge->input_nr != 0) {
      continue;
    }
    SavedVariable& saved = kept.saved(node);
    const auto output = kept_as_it_is(saved, 0);
    if (!output || !output->defined()) {
      continue;
    }
    if (!is_worth_it(*output) || output->_version() != acon->second.version) { // changed where autograd does not see it
      continue;
    }
    if (auto recipe = recipe_of_acon(acon->second, *edge->function)) {
      saved.register_hooks(std::make_unique<Recomputed>(std::move(*recipe), output->sizes().vec()));
    }
  }
}

// Walks the graph before `root`, itself included, back to the ACONs.
void recompute_before(Node& root) {
  auto& visited = step().visited;
  if (visited.size() > kMostVisited) {
    visited.clear();
  }
  std::vector<Node*> waiting;
  const auto visit = [&](Node& node) {
    // What is before an ACON was visited when it was called.
    if (!acons().count(typeid(node)) && visited.emplace(&node, node.sequence_nr()).second) {
      waiting.push_back(&node);
    }
  };
  visit(root);
  while (!waiting.empty()) {
    Node* const node = waiting.back();
    waiting.pop_back();
    recompute_inputs(*node);
    for (const auto& edge : node->next_edges()) {
      if (edge.function) {
        visit(*edge.function);
      }
    }
  }
}

template <typename T>
std::optional<NormNode> norm_node_of(const T& node, double eps) {
  const auto x = kept_as_it_is(node.input_, 0), weight = kept_as_it_is(node.weight_, 0);
  const auto mean = kept_as_it_is(node.training ? node.result1_ : node.running_mean_, 0),
             variance = kept_as_it_is(node.training ? node.result2_ : node.running_var_, 0);
  if (!x || !x->defined() || !weight || !mean || !variance || !mean->defined() || !variance->defined()) {
    return std::nullopt;
  }
  return NormNode{node.input_, *x, *weight, *mean, *variance, node.training, eps};
}

std::optional<Recipe> recipe_of_norm(const Node& node, const NormNode& norm) {
  const auto weight = parameter_of(node, 1, norm.weight.defined()), bias = parameter_of(node, 2, norm.weight.defined());
  if (!weight || !bias) {
    return std::nullopt;
  }
  return Recipe::of(norm.input)
      .then(norm.training ? Recipe::normalize_by_rstd : Recipe::normalize, norm.eps,
            {*weight, *bias, norm.mean, norm.variance});
}

// Of the output of a node, where the node keeps what it takes.
std::optional<Recipe> recipe_of_output(Node& node) {
  if (const auto norm = norm_node(node)) {
    return recipe_of_norm(node, *norm);
  }
  if (const auto offer = offered.find(&node); offer != offered.end()) {
    return offer->second;
  }
  const auto acon = acons().find(typeid(node));
  if (acon == acons().end()) {
    return std::nullopt;
  }
  const auto& data = acon->second.context(node).saved_data;
  const auto version = data.find(kVersion);
  const bool unchanged = version != data.end() && version->second.toTensor()._version() == acon->second.version;
  return unchanged ? recipe_of_acon(acon->second, node) : std::nullopt;
}

// Of the sum of two such outputs, of the same shape.
std::optional<Recipe> recipe_of_sum(const torch::autograd::generated::AddBackward0& node, const Tensor& x) {
  if (!node.alpha.equal(1) || node.self_scalar_type != node.other_scalar_type) {
    return std::nullopt;
  }
  std::optional<Recipe> sum;
  for (const auto& edge : node.next_edges()) {
    if (!edge.function || edge.input_nr != 0 || !edge.function->input_metadata(0).is_same_shape(x)) {
      return std::nullopt;
    }
    const auto summand = recipe_of_output(*edge.function);
    if (!summand) {
      return std::nullopt;
    }
    sum = sum ? sum->plus(*summand) : summand;
  }
  int sums = 0;
  for (size_t i = 0; sum && i < sum->steps.size(); i += 2) {
    sums += sum->steps[i] == Recipe::add;
  }
  return sums <= kMostSums ? sum : std::nullopt;
}

// Of `x`, the output of `node`, if it was not changed after that.
std::optional<Recipe> recipe_of_input(const Tensor& x, Node& node) {
  if (typeid(node) == typeid(torch::autograd::generated::AddBackward0)) {
    // The sum may be computed in place.
    return x._version() <= 1 ? recipe_of_sum(static_cast<torch::autograd::generated::AddBackward0&>(node), x)
                             : std::nullopt;
  }
  return x._version() == 0 && !acons().count(typeid(node)) ? recipe_of_output(node) : std::nullopt;
}

} // namespace

bool recomputes() {
  return enabled;
}

bool is_worth_it(const Tensor& x) {
  return x.numel() * static_cast<int64_t>(x.element_size()) >= kLeastBytes;
}

std::optional<NormNode> norm_node(const Node& node) {
  using namespace torch::autograd::generated;
  if (typeid(node) == typeid(NativeBatchNormBackward0)) {
    const auto& norm = static_cast<const NativeBatchNormBackward0&>(node);
    return norm_node_of(norm, norm.eps);
  }
  if (typeid(node) == typeid(CudnnBatchNormBackward0)) {
    const auto& norm = static_cast<const CudnnBatchNormBackward0&>(node);
    return norm_node_of(norm, norm.epsilon);
  }
  return std::nullopt;
}

std::optional<Tensor> parameter_of(const Node& node, size_t input, bool has_one) {
  if (!has_one) {
    return Tensor();
  }
  const auto* leaf = dynamic_cast<const torch::autograd::AccumulateGrad*>(node.next_edge(input).function.get());
  return leaf ? std::optional<Tensor>(leaf->variable) : std::nullopt;
}

bool register_acon(const std::type_info& type, const AconNode& acon) {
  acons().emplace(type, acon);
  return true;
}

Recipe prepare_input(const Tensor& x) {
  Recipe kept = Recipe::of(x);
  const auto root = x.grad_fn();
  if (!enabled || !at::GradMode::is_enabled() || at::isTensorSubclassLike(x)) {
    return kept;
  }
  step().has_acon = true;
  if (!root) {
    return kept;
  }
  recompute_before(*root);
  const bool can_make = least && saves_plainly() && is_worth_it(x) && x.output_nr() == 0;
  return (can_make ? recipe_of_input(x, *root) : std::nullopt).value_or(std::move(kept));
}

void finish_output(const Tensor& y) {
  if (!least || !y.grad_fn()) {
    return;
  }
  const auto acon = acons().find(typeid(*y.grad_fn()));
  if (acon != acons().end()) {
    // An empty tensor with the version of y, which shows whether y was changed in place.
    const Tensor version = at::empty({0}, y.options());
    torch::autograd::impl::set_version_counter(version, torch::autograd::impl::version_counter(y));
    acon->second.context(*y.grad_fn()).saved_data[kVersion] = version;
  }
}

TORCH_LIBRARY_FRAGMENT(acon_mm, m) {
  m.def("recompute_outputs(Tensor[] results) -> ()", [](at::TensorList results) {
    if (step().has_acon) {
      for (const Tensor& t : results) {
        if (const auto root = enabled ? t.grad_fn() : nullptr) {
          recompute_before(*root);
        }
      }
    }
    step() = {};
  });
  // Turns recomputation on or off, and tells what it was.
  m.def("set_recomputation(bool wanted) -> bool", [](bool wanted) { return enabled.exchange(wanted); });
  // The same for the inputs of ACONs, in this thread.
  m.def("set_least(bool wanted) -> bool", [](bool wanted) {
    offered.clear();
    return std::exchange(least, wanted);
  });
  m.def("saves_plainly() -> bool", &saves_plainly);
  // What a batch norm keeps, of which the node is that of `x`, or its edge of the number `edge`: the norm's input,
  // weight, bias, mean and 1/sqrt(variance + eps).
  m.def("offer_norm(Tensor x, int edge, Tensor[] kept) -> ()", [](const Tensor& x, int64_t edge, at::TensorList kept) {
    const auto node = edge < 0 ? x.grad_fn() : x.grad_fn()->next_edge(edge).function;
    const Recipe recipe =
        Recipe::of(kept[0]).then(Recipe::normalize_by_rstd, 0, {kept[1], kept[2], kept[3], kept[4]});
    offered.insert_or_assign(node.get(), recipe);
  });
}

} // namespace acon
