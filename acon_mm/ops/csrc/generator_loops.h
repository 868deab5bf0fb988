// The loops of a layer of Meta-ACON's generator (see Layer in kernels.h), in the vectors of simd.h. With a few samples,
// most of the time is for reading and writing the weights, once each. Libraries for matrix products are made for many
// samples.
#pragma once

#include <cmath>
#include <limits>

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

// Calls f(first, number) for groups of `begin` to `end`: first for groups of `most`, then for smaller ones. The number
// is a power of 2 and a constant of the compiler.
template <int most, typename F>
void in_groups(int64_t begin, int64_t end, F f) {
  int64_t i = begin;
  for (; i + most <= end; i += most) {
    f(i, std::integral_constant<int, most>());
  }
  if constexpr (most > 1) {
    in_groups<most / 2>(i, end, f);
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

  // Calls f(first sample, samples, first output, outputs) for groups of a few samples and outputs. A group shares the
  // loads of x and of the weights, and its sums do not wait for one another.
  template <typename F>
  static void for_groups(int64_t samples, int64_t begin, int64_t end, F f) {
    in_groups<4>(0, samples, [&](int64_t n, auto few) {
      in_groups<few() == 4 ? 2 : 4>(begin, end, [&](int64_t m, auto rows) { f(n, few, m, rows); });
    });
  }

  // x w^T + b.
  static void linear(const Layer<A>& layer, A* to, int64_t begin, int64_t end) {
    const int64_t in = layer.in;
    for_groups(layer.samples, begin, end, [&](int64_t n, auto few, int64_t m, auto rows) {
      const A *const x = layer.x + n * in, *const weight = layer.weight + m * in;
      V sums[few()][rows()] = {};
      for_vectors<A>(in, [&](int64_t k, auto load, auto) {
        for (int row = 0; row < rows; ++row) {
          const V w = load(weight + row * in + k);
          for (int i = 0; i < few; ++i) {
            sums[i][row] += w * load(x + i * in + k);
          }
        }
      });
      for (int i = 0; i < few; ++i) {
        for (int row = 0; row < rows; ++row) {
          to[(n + i) * layer.out + m + row] = sum_of_lanes(sums[i][row]) + layer.bias[m + row];
        }
      }
    });
  }

  static void linear_backward(const Layer<A>& layer, const LayerGradients<A>& grad, int64_t begin, int64_t end) {
    const int64_t in = layer.in;
    for_groups(layer.samples, begin, end, [&](int64_t n, auto few, int64_t m, auto rows) {
      const A *const x = layer.x + n * in, *const weight = layer.weight + m * in;
      A *const grad_x = grad.x + n * in, *const grad_weight = grad.weight + m * in;
      A grad_z[few()][rows()];
      for (int i = 0; i < few; ++i) {
        std::memcpy(grad_z[i], grad.z + (n + i) * layer.out + m, sizeof(grad_z[i]));
      }
      for_vectors<A>(in, [&](int64_t k, auto load, auto store) {
        V of_x[few()];
        for (int i = 0; i < few; ++i) {
          of_x[i] = load(grad_x + i * in + k);
        }
        for (int row = 0; row < rows; ++row) {
          const V w = load(weight + row * in + k);
          V of_weight = n > 0 ? load(grad_weight + row * in + k) : V{};
          for (int i = 0; i < few; ++i) {
            of_x[i] += w * grad_z[i][row];
            of_weight += load(x + i * in + k) * grad_z[i][row];
          }
          store(grad_weight + row * in + k, of_weight);
        }
        for (int i = 0; i < few; ++i) {
          store(grad_x + i * in + k, of_x[i]);
        }
      });
    });
  }

  static void forward(const Layer<A>& layer, int64_t begin, int64_t end) {
    const A samples = layer.samples;
    const int64_t out = layer.out;
    A* const z = layer.norm_weight ? layer.z : layer.y;
    linear(layer, z, begin, end);
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
          // A batch that is not finite moves nothing: it would spoil the statistics for good.
          const auto finite = squares <= broadcast<V>(std::numeric_limits<A>::max());
          const auto move = [&](A* running, V towards) {
            const V value = load(running + m);
            const V moved = value + layer.momentum * (towards - value);
            store(running + m, finite ? moved : value);
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
          if (layer.batch_statistics) { // mean and variance depend on each sample
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
    linear_backward(layer, grad, begin, end);
  }

  static constexpr acon::LayerKernels<A> all() {
    return {forward, backward};
  }
};

} // namespace
