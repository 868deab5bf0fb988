// ACON-C and its gradients, for one vector: the formula in C++. Python has it in ops/reference.py.
#pragma once

#include "simd.h"

namespace {

// The sums that the gradients of p1, p2 and beta are made of.
template <typename A>
struct Sums {
  typename Vector<A>::type p1; // of grad_y dy/dp1
  typename Vector<A>::type p1_and_p2; // of grad_y (dy/dp1 + dy/dp2) = grad_y x
  typename Vector<A>::type beta; // of grad_y dy/dbeta / p_diff^2

  // Adds the lanes of `other` where `mask` is set.
  void add(const Sums& other, typename Vector<A>::ints mask) {
    p1 += mask ? other.p1 : typename Vector<A>::type{};
    p1_and_p2 += mask ? other.p1_and_p2 : typename Vector<A>::type{};
    beta += mask ? other.beta : typename Vector<A>::type{};
  }
};

// Where a norm is before, with z = scale u + shift: what its own gradients are made of.
template <typename A>
struct NormedSums : Sums<A> {
  typename Vector<A>::type z; // of grad_z
  typename Vector<A>::type z_u; // of grad_z (u - mean)

  void add(const NormedSums& other, typename Vector<A>::ints mask) {
    Sums<A>::add(other, mask);
    z += mask ? other.z : typename Vector<A>::type{};
    z_u += mask ? other.z_u : typename Vector<A>::type{};
  }
};

// ACON-C (arXiv 2009.04759, equations 7 and 8). With p_diff = p1 - p2, z = beta p_diff x, s = sigmoid(z):
//
//   y      = x (p2 + p_diff s)
//   dy/dx  = p2 + p_diff h,  h = s + z s (1-s)
//   dy/dp1 = x h,  dy/dp2 = x (1-h),  dy/dbeta = (p_diff x)^2 s (1-s)
template <typename A>
struct AconC {
  using V = typename Vector<A>::type;
  using OfSums = Sums<A>;

  V p_diff, p2, z_slope; // z = z_slope x

  AconC() = default;
  AconC(V p1, V p2, V beta) : p_diff(p1 - p2), p2(p2), z_slope(beta * (p1 - p2)) {}
  AconC(A p1, A p2, A beta) : AconC(broadcast<V>(p1), broadcast<V>(p2), broadcast<V>(beta)) {}

  // `first` in the lanes where `mask` is set, `second` in the others.
  static AconC selected(typename Vector<A>::ints mask, const AconC& first, const AconC& second) {
    AconC acon;
    acon.p_diff = mask ? first.p_diff : second.p_diff;
    acon.p2 = mask ? first.p2 : second.p2;
    acon.z_slope = mask ? first.z_slope : second.z_slope;
    return acon;
  }

  // Beyond this |z|, s (1-s) counts as 0. So nothing infinite is multiplied by it.
  static constexpr A kMaxZ = std::is_same<A, float>::value ? 87 : 708;

  V y(V x) const {
    const V s = A(1) / (A(1) + exp2(x * (z_slope * -kLog2E<A>)));
    return x * (p2 + p_diff * s);
  }

  // Returns grad_x. Adds to the sums, if wanted.
  template <bool with_sums>
  V grad_x(V grad_y, V x, Sums<A>& sums) const {
    const V z = x * z_slope;
    const V e = exp2(z * -kLog2E<A>);
    const V s = A(1) / (A(1) + e);
    const auto saturated = z * z >= kMaxZ * kMaxZ;
    const V slope = saturated ? V{} : s * (e * s); // 1-s = e s, without the cancellation
    const V h = saturated ? s : z * slope + s;
    if constexpr (with_sums) {
      const V weighted = grad_y * x;
      sums.p1 += weighted * h;
      sums.p1_and_p2 += weighted;
      sums.beta += weighted * slope * x;
    }
    return grad_y * (p2 + p_diff * h);
  }
};

// ACON-C of a norm's output, out of the norm's input.
template <typename A>
struct NormedAconC : AconC<A> {
  using V = typename AconC<A>::V;

  V scale, shift;

  static NormedAconC selected(typename Vector<A>::ints mask, const NormedAconC& first, const NormedAconC& second) {
    return {
        AconC<A>::selected(mask, first, second), mask ? first.scale : second.scale,
        mask ? first.shift : second.shift};
  }

  V normalized(V u) const {
    return u * scale + shift;
  }

  V y(V u) const {
    return AconC<A>::y(normalized(u));
  }
};

// The gradients of both.
template <typename A>
struct NormedAconCGradients : NormedAconC<A> {
  using V = typename AconC<A>::V;
  using OfSums = NormedSums<A>;

  V mean, a, b, c;

  static NormedAconCGradients selected(
      typename Vector<A>::ints mask, const NormedAconCGradients& first, const NormedAconCGradients& second) {
    return {
        NormedAconC<A>::selected(mask, first, second), mask ? first.mean : second.mean, mask ? first.a : second.a,
        mask ? first.b : second.b, mask ? first.c : second.c};
  }

  // Returns grad_u. Adds to the sums, if wanted.
  template <bool with_sums>
  V grad_x(V grad_y, V u, NormedSums<A>& sums) const {
    const V grad_z = AconC<A>::template grad_x<with_sums>(grad_y, this->normalized(u), sums);
    if constexpr (with_sums) {
      sums.z += grad_z;
      sums.z_u += grad_z * (u - mean);
    }
    return grad_z * a + (u * b + c);
  }
};

// p_diff^2 times a sum, both numbers or both vectors. The sum may have overflowed to infinity, and a p_diff of 0 must
// not make NaN of that.
template <typename A, typename T>
T times_p_diff_squared(T sum, T p_diff) {
  constexpr A largest = std::is_same<A, float>::value ? A(3.402823466e+38) : A(1.7976931348623157e+308);
  return at_least(at_most(sum, T{} + largest), T{} - largest) * p_diff * p_diff;
}

} // namespace
