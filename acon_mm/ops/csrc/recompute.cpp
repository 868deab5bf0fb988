#include "recompute.h"

#include <ATen/SavedTensorHooks.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/SafePyObject.h>
#include <torch/csrc/autograd/generated/Functions.h>
#include <torch/library.h>

#include <atomic>
#include <typeindex>
#include <unordered_map>
#include <unordered_set>

namespace acon {
namespace {

using torch::autograd::Node;
using torch::autograd::SavedVariable;

// Smaller tensors are kept: to make them again costs more than it saves.
constexpr int64_t kLeastBytes = int64_t(1) << 18;

std::atomic<bool> enabled{true};

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

std::unordered_map<std::type_index, RecipeOf>& acons() {
  static std::unordered_map<std::type_index, RecipeOf> known;
  return known;
}

// Stands for the output of an ACON in the node that kept it.
class Recomputed : public torch::autograd::SavedVariableHooks {
 public:
  Recomputed(Recipe recipe, std::vector<int64_t> sizes) : recipe_(std::move(recipe)), sizes_(std::move(sizes)) {
    for (const Tensor* t : tensors()) {
      versions_.push_back(t->_version());
    }
  }

  void call_pack_hook(const Tensor&) override {} // the output is dropped

  Tensor call_unpack_hook() override {
    using Forward = Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, int64_t);
    static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("acon_mm::acon_c", "").typed<Forward>();
    size_t i = 0;
    for (const Tensor* t : tensors()) {
      TORCH_CHECK(
          t->_version() == versions_[i++],
          "one of the variables needed for gradient computation has been modified by an inplace operation: the input "
          "or a parameter of an ACON, of shape ", t->sizes(), ", which the backward pass of the layer after it needs "
          "to make the ACON's output again. acon_mm.ops.memory.keep_outputs() turns that off");
      TORCH_CHECK(
          t->storage().nbytes() > 0 || t->numel() == 0,
          "the memory of a parameter of an ACON was freed before the backward pass of the layer after it, which needs "
          "it to make the ACON's output again, as by a wrapper that shards parameters: "
          "acon_mm.ops.memory.keep_outputs() turns that off");
    }
    at::AutoDispatchBelowADInplaceOrView below;
    const Tensor y = op.call(recipe_.x, recipe_.p1, recipe_.p2, recipe_.beta, recipe_.channel_dim);
    return y.sizes() == sizes_ ? y : y.view(sizes_);
  }

  // For compiled autograd: there are no Python hooks here.
  std::optional<std::pair<c10::SafePyObject, c10::SafePyObject>> retrieve_unpack_hook_data() const {
    return std::nullopt;
  }

 private:
  std::array<const Tensor*, 4> tensors() const {
    return {&recipe_.x, &recipe_.p1, &recipe_.p2, &recipe_.beta};
  }

  Recipe recipe_;
  std::vector<int64_t> sizes_; // of the output, or of a view of it
  std::vector<int64_t> versions_;
};

// A wrapper around the model may make parameters anew out of others, and free them before backward. One with a value per
// sample is no parameter of a model.
bool stays(const Tensor& parameter) {
  return !parameter.requires_grad() || parameter.is_leaf() || parameter.dim() > 1;
}

bool is_worth_it(const Recipe& recipe) {
  const auto& x = recipe.x;
  return x.numel() * static_cast<int64_t>(x.element_size()) >= kLeastBytes && stays(recipe.p1) && stays(recipe.p2) &&
      stays(recipe.beta);
}

// Whether the node is of an operator that gives the same elements in the same order another shape.
bool is_view(const Node& node) {
  using namespace torch::autograd::generated;
  return typeid(node) == typeid(ViewBackward0) || typeid(node) == typeid(UnsafeViewBackward0);
}

// What is saved, if no hooks stand for it.
template <typename Saved>
auto kept_as_it_is(const Saved& saved, int) -> decltype(saved.get_raw_data()) {
  return saved.get_raw_data();
}
// A PyTorch without that function does not tell, so nothing is recomputed.
template <typename Saved>
std::optional<Tensor> kept_as_it_is(const Saved&, long) {
  return std::nullopt;
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
    std::optional<Recipe> recipe;
    try {
      recipe = acon->second(*edge->function);
    } catch (const c10::Error&) { // what the ACON saved was changed or freed, which its own backward will say
    }
    if (recipe && is_worth_it(*recipe)) {
      saved.register_hooks(std::make_unique<Recomputed>(std::move(*recipe), output->sizes().vec()));
    }
  }
}

} // namespace

bool register_acon(const std::type_info& type, RecipeOf recipe_of) {
  acons().emplace(type, recipe_of);
  return true;
}

bool saves_plainly() {
  return !at::SavedTensorDefaultHooks::get_hooks().has_value();
}

void recompute_outputs_before(const Tensor& x) {
  if (!enabled || !at::GradMode::is_enabled() || at::isTensorSubclassLike(x)) {
    return;
  }
  Step& current = step();
  current.has_acon = true;
  const auto root = x.grad_fn();
  if (!root) {
    return;
  }
  if (current.visited.size() > kMostVisited) {
    current.visited.clear();
  }
  std::vector<Node*> waiting;
  const auto visit = [&](Node& node) {
    // What is before an ACON was visited when it was called.
    if (!acons().count(typeid(node)) && current.visited.emplace(&node, node.sequence_nr()).second) {
      waiting.push_back(&node);
    }
  };
  visit(*root);
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

TORCH_LIBRARY_FRAGMENT(acon_mm, m) {
  m.def("recompute_outputs(Tensor[] results) -> ()", [](at::TensorList results) {
    if (step().has_acon) {
      for (const Tensor& t : results) {
        recompute_outputs_before(t);
      }
    }
    step() = {};
  });
  // Turns recomputation on or off, and tells what it was.
  m.def("set_recomputation(bool wanted) -> bool", [](bool wanted) { return enabled.exchange(wanted); });
}

} // namespace acon
