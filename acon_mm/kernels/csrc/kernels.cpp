// The loops over planes and rows. setup.py compiles this file once per instruction set, with ACON_TABLE naming the table.
#include "kernels.h"
#include "simd.h"

namespace {

using acon::kSums;
using acon::Kernels;
using acon::Parameters;

// Asks for what a loop will read shortly. The processor does so by itself, but stops at the end of every page of 4 KiB:
// forward takes about a tenth less time by this.
template <typename S>
inline void prefetch(const S* p) {
  __builtin_prefetch(reinterpret_cast<const char*>(p) + 512);
}

// ACON-C for one vector (arXiv 2009.04759, equations 7 and 8). With d = width x, z = beta d, s = sigmoid(z):
//
//   y      = x (p2 + width s)
//   dy/dx  = p2 + width h,  h = s + z s (1-s)
//   dy/dp1 = x h,  dy/dp2 = x (1-h),  dy/dbeta = d^2 s (1-s)
template <typename A>
struct AconC {
  using V = typename Vector<A>::type;

  V width, p2, scale; // scale: z = scale x

  AconC(V p1, V p2, V beta) : width(p1 - p2), p2(p2), scale(beta * (p1 - p2)) {}
  AconC(A p1, A p2, A beta) : AconC(broadcast<V>(p1), broadcast<V>(p2), broadcast<V>(beta)) {}

  static constexpr A kLog2E = 1.442695040888963407359924681;
  // Beyond this |z|, s (1-s) is 0; clamping keeps infinity times 0 out of z s (1-s).
  static constexpr A kMaxZ = 1e3;

  V y(V x) const {
    const V s = A(1) / (A(1) + exp2(x * (scale * -kLog2E)));
    return x * (p2 + width * s);
  }

  // grad_x; adds what the gradients of p1 and p2 sum up, and what that of beta does up to the factor width^2.
  V grad_x(V grad_y, V x, V& sum_p1, V& sum_p2, V& sum_beta) const {
    const V z = at_least(at_most(x * scale, broadcast<V>(kMaxZ)), broadcast<V>(-kMaxZ));
    // By |z|, so that neither tail of s cancels or overflows.
    const V e = exp2((z < A(0) ? z : -z) * kLog2E);
    const V larger = A(1) / (A(1) + e);
    const V smaller = e * larger;
    const V slope = larger * smaller;
    const V h = z * slope + (z > A(0) ? larger : smaller);
    const V weighted = grad_y * x;
    const V weighted_h = weighted * h;
    sum_p1 += weighted_h;
    sum_p2 += weighted - weighted_h;
    sum_beta += weighted * slope * x;
    return grad_y * (p2 + width * h);
  }
};

// width^2 times a sum that may have overflowed, which a width of 0 must not make NaN.
template <typename A>
A times_width_squared(A sum, A width) {
  constexpr A largest = std::is_same<A, float>::value ? A(3.402823466e+38) : A(1.7976931348623157e+308);
  sum = sum > largest ? largest : sum < -largest ? -largest : sum;
  return sum * width * width;
}

template <typename S>
struct Loops {
  using A = typename acon::Compute<S>::type;
  using V = typename Vector<A>::type;
  static constexpr int lanes = Vector<A>::lanes;

  static void plane_forward(const S* x, S* y, int64_t count, A p1, A p2, A beta) {
    const AconC<A> acon(p1, p2, beta);
    int64_t i = 0;
    for (; i + lanes <= count; i += lanes) {
      prefetch(x + i);
      Io<S>::store(y + i, acon.y(Io<S>::load(x + i)));
    }
    if (i < count) {
      const int rest = count - i;
      Io<S>::store(y + i, acon.y(Io<S>::load(x + i, rest)), rest);
    }
  }

  static void plane_backward(
      const S* grad_y, const S* x, S* grad_x, int64_t count, A p1, A p2, A beta, A* sums) {
    const AconC<A> acon(p1, p2, beta);
    V sum_p1 = {}, sum_p2 = {}, sum_beta = {};
    int64_t i = 0;
    for (; i + lanes <= count; i += lanes) {
      prefetch(x + i);
      prefetch(grad_y + i);
      const V grad = acon.grad_x(Io<S>::load(grad_y + i), Io<S>::load(x + i), sum_p1, sum_p2, sum_beta);
      Io<S>::store(grad_x + i, grad);
    }
    if (i < count) {
      const int rest = count - i;
      const V grad =
          acon.grad_x(Io<S>::load(grad_y + i, rest), Io<S>::load(x + i, rest), sum_p1, sum_p2, sum_beta);
      Io<S>::store(grad_x + i, grad, rest);
    }
    sums[0] = sum_of_lanes(sum_p1);
    sums[1] = sum_of_lanes(sum_p2);
    sums[2] = times_width_squared<A>(sum_of_lanes(sum_beta), p1 - p2);
  }

  static A plane_sum(const S* x, int64_t count) {
    V sums[4] = {};
    int64_t i = 0;
    for (; i + 4 * lanes <= count; i += 4 * lanes) {
      for (int k = 0; k < 4; ++k) {
        prefetch(x + i + k * lanes);
        sums[k] += Io<S>::load(x + i + k * lanes);
      }
    }
    for (; i + lanes <= count; i += lanes) {
      sums[0] += Io<S>::load(x + i);
    }
    if (i < count) {
      sums[1] += Io<S>::load(x + i, count - i);
    }
    return sum_of_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
  }

  static void add_to_plane(S* x, int64_t count, A value) {
    int64_t i = 0;
    for (; i + lanes <= count; i += lanes) {
      prefetch(x + i);
      Io<S>::store(x + i, Io<S>::load(x + i) + value);
    }
    if (i < count) {
      const int rest = count - i;
      Io<S>::store(x + i, Io<S>::load(x + i, rest) + value, rest);
    }
  }

  // Rows: columns of one vector, or what is left of one; `f(c, load, store)` does a column, and gets the ways to reach
  // vectors in it.
  template <typename F>
  static void for_columns(int64_t channels, F f) {
    int64_t c = 0;
    for (; c + lanes <= channels; c += lanes) {
      f(c, [](auto* p) { return IoOf<decltype(p)>::load(p); }, [](auto* p, V v) { IoOf<decltype(p)>::store(p, v); });
    }
    if (c < channels) {
      const int rest = channels - c;
      f(c,
        [rest](auto* p) { return IoOf<decltype(p)>::load(p, rest); },
        [rest](auto* p, V v) { IoOf<decltype(p)>::store(p, v, rest); });
    }
  }
  template <typename P>
  using IoOf = Io<std::remove_cv_t<std::remove_pointer_t<P>>>;

  template <typename L>
  static AconC<A> acon_at(const Parameters<A>& parameters, int64_t sample, int64_t c, L load) {
    const auto vector = [&](const acon::Parameter<A>& p) {
      return p.channel_stride == 0 ? broadcast<V>(*p.at(sample, c)) : load(p.at(sample, c));
    };
    return AconC<A>(vector(parameters.p1), vector(parameters.p2), vector(parameters.beta));
  }

  // A few rows at a time share the loads of their columns' parameters and sums. More would be read as so many streams,
  // which the processor follows badly.
  static constexpr int64_t kRows = 4;

  static void rows_forward(
      const S* x, S* y, int64_t count, int64_t channels, int64_t sample, const Parameters<A>& parameters) {
    for (int64_t row = 0; row < count; row += kRows) {
      const int64_t end = row + kRows < count ? row + kRows : count;
      for_columns(channels, [&](int64_t c, auto load, auto store) {
        const AconC<A> acon = acon_at(parameters, sample, c, load);
        for (int64_t r = row; r < end; ++r) {
          const int64_t i = r * channels + c;
          prefetch(x + i);
          store(y + i, acon.y(load(x + i)));
        }
      });
    }
  }

  static void rows_backward(
      const S* grad_y, const S* x, S* grad_x, int64_t count, int64_t channels, int64_t sample,
      const Parameters<A>& parameters, A* sums) {
    for (int64_t row = 0; row < count; row += kRows) {
      const int64_t end = row + kRows < count ? row + kRows : count;
      for_columns(channels, [&](int64_t c, auto load, auto store) {
        const AconC<A> acon = acon_at(parameters, sample, c, load);
        V sum_p1 = load(sums + c), sum_p2 = load(sums + channels + c), sum_beta = load(sums + 2 * channels + c);
        for (int64_t r = row; r < end; ++r) {
          const int64_t i = r * channels + c;
          prefetch(x + i);
          prefetch(grad_y + i);
          store(grad_x + i, acon.grad_x(load(grad_y + i), load(x + i), sum_p1, sum_p2, sum_beta));
        }
        store(sums + c, sum_p1);
        store(sums + channels + c, sum_p2);
        store(sums + 2 * channels + c, sum_beta);
      });
    }
    for (int64_t c = 0; c < channels; ++c) {
      const A width = *parameters.p1.at(sample, c) - *parameters.p2.at(sample, c);
      sums[2 * channels + c] = times_width_squared(sums[2 * channels + c], width);
    }
  }

  static void rows_sum(const S* x, int64_t count, int64_t channels, A* sums) {
    for (int64_t row = 0; row < count; row += kRows) {
      const int64_t end = row + kRows < count ? row + kRows : count;
      for_columns(channels, [&](int64_t c, auto load, auto store) {
        V sum = load(sums + c);
        for (int64_t r = row; r < end; ++r) {
          prefetch(x + r * channels + c);
          sum += load(x + r * channels + c);
        }
        store(sums + c, sum);
      });
    }
  }

  static void add_to_rows(S* x, int64_t count, int64_t channels, const A* values) {
    for (int64_t row = 0; row < count; ++row) {
      for_columns(channels, [&](int64_t c, auto load, auto store) {
        S* const at = x + row * channels + c;
        prefetch(at);
        store(at, load(at) + load(values + c));
      });
    }
  }

  static constexpr Kernels<S> all() {
    return {plane_forward, plane_backward, plane_sum, add_to_plane,
            rows_forward,  rows_backward,  rows_sum,  add_to_rows};
  }
};

} // namespace

#define ACON_TEXT_(name) #name
#define ACON_TEXT(name) ACON_TEXT_(name)

namespace acon {
const Table ACON_TABLE = {
    ACON_TEXT(ACON_TABLE), Loops<float>::all(), Loops<double>::all(), Loops<BFloat16>::all(), Loops<Float16>::all()};
} // namespace acon
