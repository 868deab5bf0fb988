// Meta-ACON-C on a CPU, without autograd. cpu_generator.cpp has the generator.
#include "meta.h"

namespace acon {
namespace {
namespace meta_on_cpu {

// The order in which results are kept.
template <typename F>
void for_each(GeneratorOutputs& outputs, F f) {
  for (auto* layer : {&outputs.first, &outputs.second}) {
    f(layer->y), f(layer->z), f(layer->mean), f(layer->rstd);
  }
}

std::pair<Tensor, GeneratorOutputs> restored(const std::vector<Tensor>& kept) {
  GeneratorOutputs outputs;
  auto next = kept.begin();
  const Tensor mean = *next++;
  for_each(outputs, [&](Tensor& t) { t = *next++; });
  return {mean, outputs};
}

MetaResult forward(const MetaInputs& in) {
  const Tensor mean = channel_mean_cpu(in.x, in.channel_dim);
  GeneratorOutputs outputs = generator_cpu(mean, in.generator);
  MetaResult result{acon_c_cpu(in.x, in.p1, in.p2, outputs.beta(), in.channel_dim), {mean}};
  for_each(outputs, [&](const Tensor& t) { result.kept.push_back(t); });
  return result;
}

MetaGradients backward(Tensor grad_y, const MetaInputs& in, const std::vector<Tensor>& kept) {
  const auto [mean, outputs] = restored(kept);
  auto [grad_x, grad_p1, grad_p2, grad_beta] = acon_c_backward_cpu(
      std::move(grad_y), in.x, in.p1, in.p2, outputs.beta(), in.channel_dim, {true, true, true, true});
  GeneratorGradients generator = generator_backward_cpu(grad_beta, mean, in.generator, outputs);
  return {
      with_gradient_of_mean(std::move(grad_x), generator.mean, in.channel_dim), grad_p1, grad_p2,
      std::move(generator)};
}

Tensor beta(const MetaInputs&, const std::vector<Tensor>& kept) {
  return restored(kept).second.beta();
}

std::array<NormStatistics, 2> statistics(const MetaInputs&, const std::vector<Tensor>& kept) {
  const auto outputs = restored(kept).second;
  return {NormStatistics{outputs.first.mean, outputs.first.rstd}, {outputs.second.mean, outputs.second.rstd}};
}

MetaResult forward_after_norm(const MetaInputs& in, Norm& norm, const Tensor& z) {
  norm.mean_of_samples = channel_mean_cpu(in.x, in.channel_dim);
  const Tensor mean = norm.mean_of_samples * norm[Norm::scale] + norm[Norm::shift];
  GeneratorOutputs outputs = generator_cpu(mean, in.generator);
  acon_c_cpu_(z, in.p1, in.p2, outputs.beta(), in.channel_dim);
  MetaResult result{z.alias(), {mean}};
  for_each(outputs, [&](const Tensor& t) { result.kept.push_back(t); });
  return result;
}

NormedAconGradients backward_after_norm(
    Tensor grad_y, const MetaInputs& in, const std::vector<Tensor>& kept, const Norm& norm,
    GeneratorGradients& of_generator) {
  const auto [mean, outputs] = restored(kept);
  const auto gradient_of_mean = [&, &mean = mean, &outputs = outputs](const Tensor& grad_beta) {
    of_generator = generator_backward_cpu(grad_beta, mean, in.generator, outputs);
    return of_generator.mean;
  };
  return normed_acon_c_backward_cpu(
      std::move(grad_y), in.x, norm, in.p1, in.p2, outputs.beta(), in.channel_dim, gradient_of_mean);
}

} // namespace meta_on_cpu
} // namespace

const MetaKernels meta_cpu{
    meta_on_cpu::forward,    meta_on_cpu::backward,           meta_on_cpu::beta,
    meta_on_cpu::statistics, meta_on_cpu::forward_after_norm, meta_on_cpu::backward_after_norm};

} // namespace acon
