// The loops of a layer of Meta-ACON's generator (see Layer in kernels.h), in the vectors of simd.h. With a few samples its
// weights are most of what is read and written, once each; libraries for matrix products are made for many samples.
#pragma once

#include <cmath>

#include "simd.h"

namespace {

using acon::Layer;
using acon::LayerGradients;

// Calls f(i, load, store) for each vector of `count` elements.
template <typename A, typename F>
void for_vectors(int64_t count, F f) {
  using V = typename Vector<A>::type;
  constexpr int lanes = Vector<A>::lanes;
  const auto load = [](const A* p) {
    V v[1];
    Io<A>::load(p, v);
    return v[0];
  };
  const auto store = [](A* p, V value) {
    const V v[1] = {value};
    Io<A>::store(p, v);
  };
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    f(i, load, store);
  }
  if (i < count) {
    const int rest = count - i;
    f(
        i,
        [rest](const A* p) {
          V v[1];
          Io<A>::load(p, v, rest);
          return v[0];
        },
        [rest](A* p, V value) {
          const V v[1] = {value};
          Io<A>::store(p, v, rest);
        });
  }
}

// Calls f(first sample, number of samples) for 4, 2 or 1 at a time, the number as a constant.
template <typename F>
void for_samples(int64_t samples, F f) {
  int64_t n = 0;
  for (; n + 4 <= samples; n += 4) {
    f(n, std::integral_constant<int, 4>());
  }
  for (; n + 2 <= samples; n += 2) {
    f(n, std::integral_constant<int, 2>());
  }
  if (n < samples) {
    f(n, std::integral_constant<int, 1>());
  }
}

template <typename V>
V reciprocal_root(V v) {
  constexpr int lanes = sizeof(V) / sizeof(v[0]);
  for (int i = 0; i < lanes; ++i) {
    v[i] = 1 / std::sqrt(v[i]);
  }
  return v;
}

template <typename A>
struct LayerLoops {
  using V = typename Vector<A>::type;

  // x w^T + b for `few` samples from `n`, which share the loads of the weights.
  template <int few>
  static void linear(const Layer<A>& layer, int64_t n, A* to, int64_t begin, int64_t end) {
    const A* const x = layer.x + n * layer.in;
    for (int64_t m = begin; m < end; ++m) {
      V sums[few] = {};
      for_vectors<A>(layer.in, [&](int64_t k, auto load, auto) {
        const V weight = load(layer.weight + m * layer.in + k);
        for (int i = 0; i < few; ++i) {
          sums[i] += weight * load(x + i * layer.in + k);
        }
      });
      for (int i = 0; i < few; ++i) {
        to[(n + i) * layer.out + m] = sum_of_lanes(sums[i]) + layer.bias[m];
      }
    }
  }

  template <int few>
  static void linear_backward(
      const Layer<A>& layer, const LayerGradients<A>& grad, int64_t n, int64_t begin, int64_t end) {
    const A* const x = layer.x + n * layer.in;
    A* const grad_x = grad.x + n * layer.in;
    for (int64_t m = begin; m < end; ++m) {
      const A* const weight = layer.weight + m * layer.in;
      A* const grad_weight = grad.weight + m * layer.in;
      for_vectors<A>(layer.in, [&](int64_t k, auto load, auto store) {
        const V w = load(weight + k);
        V of_weight = n > 0 ? load(grad_weight + k) : V{};
        for (int i = 0; i < few; ++i) {
          const A grad_z = grad.z[(n + i) * layer.out + m];
          A* const of_x = grad_x + i * layer.in + k;
          store(of_x, load(of_x) + w * grad_z);
          of_weight += load(x + i * layer.in + k) * grad_z;
        }
        store(grad_weight + k, of_weight);
      });
    }
  }

  static void forward(const Layer<A>& layer, int64_t begin, int64_t end) {
    const A samples = layer.samples;
    const int64_t out = layer.out;
    A* const z = layer.norm_weight ? layer.z : layer.y;
    for_samples(layer.samples, [&](int64_t n, auto few) { linear<few>(layer, n, z, begin, end); });
    if (!layer.norm_weight && layer.scale == 0) {
      return;
    }
    for_vectors<A>(end - begin, [&](int64_t i, auto load, auto store) {
      const int64_t m = begin + i;
      V shift = {}, factor = broadcast<V>(A(1)), norm_bias = {};
      if (layer.norm_weight) {
        V mean, variance;
        if (!layer.batch_statistics) {
          mean = load(layer.running_mean + m);
          variance = load(layer.running_var + m);
        } else {
          V sum = {}, squares = {};
          for (int64_t n = 0; n < layer.samples; ++n) {
            sum += load(z + n * out + m);
          }
          mean = sum / samples;
          for (int64_t n = 0; n < layer.samples; ++n) {
            const V from_mean = load(z + n * out + m) - mean;
            squares += from_mean * from_mean;
          }
          variance = squares / samples;
          const auto move = [&](A* running, V towards) {
            const V value = load(running + m);
            store(running + m, value + layer.momentum * (towards - value));
          };
          move(layer.running_mean, mean);
          move(layer.running_var, squares / (samples - 1));
        }
        const V rstd = reciprocal_root(variance + layer.eps);
        store(layer.mean + m, mean);
        store(layer.rstd + m, rstd);
        shift = mean, factor = rstd * load(layer.norm_weight + m), norm_bias = load(layer.norm_bias + m);
      }
      for (int64_t n = 0; n < layer.samples; ++n) {
        V value = (load(z + n * out + m) - shift) * factor + norm_bias;
        if (layer.scale != 0) {
          value = layer.scale / (A(1) + exp2(value * -kLog2E<A>));
        }
        store(layer.y + n * out + m, value);
      }
    });
  }

  static void backward(const Layer<A>& layer, const LayerGradients<A>& grad, int64_t begin, int64_t end) {
    const A samples = layer.samples;
    const int64_t out = layer.out;
    for_vectors<A>(end - begin, [&](int64_t i, auto load, auto store) {
      const int64_t m = begin + i;
      V mean = {}, rstd = {}, factor = broadcast<V>(A(1)), sum = {}, weighted_sum = {}, bias_sum = {};
      if (layer.norm_weight) {
        mean = load(layer.mean + m), rstd = load(layer.rstd + m);
        factor = rstd * load(layer.norm_weight + m);
      }
      const auto normalized = [&](int64_t at) { return (load(layer.z + at) - mean) * rstd; };
      for (int64_t n = 0; n < layer.samples; ++n) {
        const int64_t at = n * out + m;
        V value = load(grad.y + at);
        if (layer.scale != 0) {
          const V y = load(layer.y + at);
          value *= y * (A(1) - y / layer.scale);
        }
        store(grad.z + at, value);
        if (layer.norm_weight) {
          sum += value;
          weighted_sum += value * normalized(at);
        }
      }
      for (int64_t n = 0; n < layer.samples; ++n) {
        const int64_t at = n * out + m;
        V value = load(grad.z + at);
        if (layer.norm_weight) {
          if (layer.batch_statistics) { // which depend on each sample
            value -= (sum + normalized(at) * weighted_sum) / samples;
          }
          value *= factor;
          store(grad.z + at, value);
        }
        bias_sum += value;
      }
      store(grad.bias + m, bias_sum);
      if (layer.norm_weight) {
        store(grad.norm_weight + m, weighted_sum);
        store(grad.norm_bias + m, sum);
      }
    });
    for_samples(
        layer.samples, [&](int64_t n, auto few) { linear_backward<few>(layer, grad, n, begin, end); });
  }

  static constexpr acon::LayerKernels<A> all() {
    return {forward, backward};
  }
};

} // namespace
