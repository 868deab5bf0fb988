// The loops of a linear layer for few samples, in the vectors of simd.h. Its weights are most of what is read and written,
// once each; libraries for matrix products are made for many samples.
#pragma once

#include "simd.h"

namespace {

using FloatIo = Io<float>;

// Calls f(i, load, store) for each vector of `count` elements.
template <typename F>
void for_vectors(int64_t count, F f) {
  constexpr int lanes = Vector<float>::lanes;
  const auto load = [](const float* p) {
    F32 v[1];
    FloatIo::load(p, v);
    return v[0];
  };
  const auto store = [](float* p, F32 value) {
    const F32 v[1] = {value};
    FloatIo::store(p, v);
  };
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    f(i, load, store);
  }
  if (i < count) {
    const int rest = count - i;
    f(
        i,
        [rest](const float* p) {
          F32 v[1];
          FloatIo::load(p, v, rest);
          return v[0];
        },
        [rest](float* p, F32 value) {
          const F32 v[1] = {value};
          FloatIo::store(p, v, rest);
        });
  }
}

// `kSamples` samples at a time share the loads of the weights.
template <int kSamples>
void linear_forward_few(
    const float* x, const float* weight, const float* bias, float* y, int64_t in, int64_t out, int64_t begin,
    int64_t end) {
  for (int64_t m = begin; m < end; ++m) {
    F32 sums[kSamples] = {};
    for_vectors(in, [&](int64_t k, auto load, auto) {
      const F32 w = load(weight + m * in + k);
      for (int n = 0; n < kSamples; ++n) {
        sums[n] += w * load(x + n * in + k);
      }
    });
    for (int n = 0; n < kSamples; ++n) {
      y[n * out + m] = sum_of_lanes(sums[n]) + bias[m];
    }
  }
}

template <int kSamples>
void linear_backward_few(
    const float* grad_y, const float* x, const float* weight, float* grad_x, float* grad_weight, bool add, int64_t in,
    int64_t out, int64_t begin, int64_t end) {
  for (int64_t m = begin; m < end; ++m) {
    const float* const from = weight + m * in;
    float* const to = grad_weight + m * in;
    for_vectors(in, [&](int64_t k, auto load, auto store) {
      const F32 w = load(from + k);
      F32 of_weight = add ? load(to + k) : F32{};
      for (int n = 0; n < kSamples; ++n) {
        const float grad = grad_y[n * out + m];
        float* const of_x = grad_x + n * in + k;
        store(of_x, load(of_x) + w * grad);
        of_weight += load(x + n * in + k) * grad;
      }
      store(to + k, of_weight);
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

void linear_forward(
    const float* x, const float* weight, const float* bias, float* y, int64_t samples, int64_t in, int64_t out,
    int64_t begin, int64_t end) {
  for_samples(samples, [&](int64_t n, auto few) {
    linear_forward_few<few>(x + n * in, weight, bias, y + n * out, in, out, begin, end);
  });
}

void linear_backward(
    const float* grad_y, const float* x, const float* weight, float* grad_x, float* grad_weight, int64_t samples,
    int64_t in, int64_t out, int64_t begin, int64_t end) {
  for_samples(samples, [&](int64_t n, auto few) {
    linear_backward_few<few>(
        grad_y + n * out, x + n * in, weight, grad_x + n * in, grad_weight, n > 0, in, out, begin, end);
  });
}

} // namespace
