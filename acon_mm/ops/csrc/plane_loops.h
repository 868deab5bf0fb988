// The loops over planes (see Kernels in kernels.h).
#pragma once

#include "steps.h"

namespace {

using acon::kMaxPlanes;
using acon::NormedGradients;
using acon::NormedParameters;
using acon::Parameters;
using acon::Planes;
using acon::SumsTo;

template <typename S>
struct PlaneLoops : Steps<S> {
  using A = typename Steps<S>::A;
  using V = typename Steps<S>::V;
  using I = typename Steps<S>::I;
  using Steps<S>::group;
  using Steps<S>::step;
  using Steps<S>::for_steps;

  // The planes of a run follow one another in memory. A step that begins in one plane and ends in the next one is
  // computed once, with the parameters of both: in planes of 7x7, a fourth of the steps would otherwise be for one
  // element each. Where a plane is smaller than a step, it is a run of its own.
  //
  // Calls f(unit, first channel of the task, channels, first element) for each run.
  template <typename F>
  static void for_runs(const Planes& planes, F f) {
    const int64_t channels = planes.count < step ? 1 : planes.channels;
    for (int64_t unit = 0; unit < planes.units; ++unit) {
      for (int64_t c = 0; c < planes.channels; c += channels) {
        f(unit, c, channels, unit * planes.unit_stride + c * planes.count);
      }
    }
  }

  // Calls in_plane(i, io, acon) for each step of the planes of a run, from element `i` on; two_planes(i, acon, next,
  // first, c) for a step that begins in plane c and ends in the next one, where `first` has the lanes of plane c; and
  // end(c) after each plane. acon_at(c) returns the activation of a plane. The first `head` elements, fewer than a step, are
  // a step of their own.
  template <typename AconAt, typename InPlane, typename TwoPlanes, typename End>
  ALWAYS_INLINE static void for_run(
      int64_t channels, int64_t count, int64_t head, AconAt acon_at, InPlane in_plane, TwoPlanes two_planes, End end) {
    A numbers[step];
    for (int i = 0; i < step; ++i) {
      numbers[i] = i;
    }
    V number[group];
    WideIo<S>::load(numbers, number);

    auto acon = acon_at(0);
    int64_t i = head;
    if (head > 0) {
      in_plane(0, Rest<S>{static_cast<int>(head)}, acon);
    }
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t plane_end = (c + 1) * count;
      for (; i + step <= plane_end; i += step) {
        in_plane(i, Whole<S>(), acon);
      }
      const int rest = plane_end - i;
      if (c + 1 == channels) {
        if (rest > 0) {
          in_plane(i, Rest<S>{rest}, acon);
        }
        end(c);
        break;
      }
      const auto next = acon_at(c + 1);
      if (rest > 0) {
        I first[group];
        for (int k = 0; k < group; ++k) {
          first[k] = number[k] < A(rest);
        }
        two_planes(i, acon, next, first, c);
        i += step;
      }
      end(c);
      acon = next;
    }
  }

  // Returns a function of the channel of a run.
  static auto acons(const Parameters<A>& parameters, int64_t sample, int64_t channel) {
    const A *const p1 = parameters.p1.at(sample, channel), *const p2 = parameters.p2.at(sample, channel),
                   *const beta = parameters.beta.at(sample, channel);
    return [=, &parameters](int64_t c) ALWAYS_INLINE_LAMBDA {
      return AconC<A>(
          p1[c * parameters.p1.channel_stride], p2[c * parameters.p2.channel_stride],
          beta[c * parameters.beta.channel_stride]);
    };
  }

  static auto acons(const NormedParameters<A>& parameters, int64_t sample, int64_t channel) {
    const Parameters<A>& of_acon = parameters;
    return [=, &parameters, acon_at = acons(of_acon, sample, channel)](int64_t c) ALWAYS_INLINE_LAMBDA {
      return NormedAconC<A>{
          acon_at(c), broadcast<V>(parameters.scale[channel + c]), broadcast<V>(parameters.shift[channel + c])};
    };
  }

  static auto acons(const NormedGradients<A>& parameters, int64_t sample, int64_t channel) {
    const NormedParameters<A>& of_acon = parameters;
    return [=, &parameters, acon_at = acons(of_acon, sample, channel)](int64_t c) ALWAYS_INLINE_LAMBDA {
      return NormedAconCGradients<A>{
          acon_at(c), broadcast<V>(parameters.mean[channel + c]), broadcast<V>(parameters.a[channel + c]),
          broadcast<V>(parameters.b[channel + c]), broadcast<V>(*parameters.c.at(sample, channel + c))};
    };
  }

  static void planes_forward(
      const S* x, S* y, const Planes& planes, const Parameters<A>& parameters, bool past_cache) {
    past_cache && planes.count >= step ? any_planes_forward<true>(x, y, planes, parameters)
                                       : any_planes_forward<false>(x, y, planes, parameters);
  }

  static void normed_planes_forward(
      const S* u, S* y, const Planes& planes, const NormedParameters<A>& parameters) {
    any_planes_forward<false>(u, y, planes, parameters);
  }

  template <bool past_cache, typename P>
  static void any_planes_forward(const S* x, S* y, const Planes& planes, const P& parameters) {
    for_runs(planes, [&](int64_t unit, int64_t channel, int64_t channels, int64_t first) {
      const S* const from = x + first;
      S* const to = y + first;
      const auto compute = [&](int64_t i, auto io, auto acon_of) ALWAYS_INLINE_LAMBDA {
        V v[group];
        prefetch(from + i);
        io.load(from + i, v);
        for (int k = 0; k < group; ++k) {
          v[k] = acon_of(k).y(v[k]);
        }
        past_cache ? io.store_past_cache(to + i, v) : io.store(to + i, v);
      };
      const int64_t to_boundary = past_cache ? -(reinterpret_cast<uintptr_t>(to) / sizeof(S)) % step : 0;
      for_run(
          channels, planes.count, to_boundary, acons(parameters, planes.sample + unit, planes.channel + channel),
          [&](int64_t i, auto io, const auto& acon) ALWAYS_INLINE_LAMBDA {
            compute(i, io, [&](int) ALWAYS_INLINE_LAMBDA { return acon; });
          },
          [&](int64_t i, const auto& acon, const auto& next, const I(&mask)[group], int64_t)
              ALWAYS_INLINE_LAMBDA {
                compute(i, Whole<S>(), [&](int k) ALWAYS_INLINE_LAMBDA {
                  return acon.selected(mask[k], acon, next);
                });
              },
          [](int64_t) {});
    });
    if (past_cache) {
      finish_streams();
    }
  }

  static void planes_backward(
      const S* grad_y, const S* x, S* grad_x, const Planes& planes, const Parameters<A>& parameters,
      const SumsTo<A>& sums) {
    sums.p1 ? any_planes_backward<true>(grad_y, x, grad_x, planes, parameters, sums)
            : any_planes_backward<false>(grad_y, x, grad_x, planes, parameters, sums);
  }

  static void normed_planes_backward(
      const S* grad_y, const S* u, S* grad_u, const Planes& planes, const NormedGradients<A>& parameters,
      const SumsTo<A>& sums) {
    sums.p1 ? any_planes_backward<true>(grad_y, u, grad_u, planes, parameters, sums)
            : any_planes_backward<false>(grad_y, u, grad_u, planes, parameters, sums);
  }

  template <bool with_sums, typename P>
  static void any_planes_backward(
      const S* grad_y, const S* x, S* grad_x, const Planes& planes, const P& parameters, const SumsTo<A>& sums) {
    using OfSums = typename decltype(acons(parameters, 0, 0)(0))::OfSums;
    OfSums totals[kMaxPlanes];
    if (with_sums) {
      std::memset(totals, 0, planes.channels * sizeof(OfSums));
    }
    const auto of_beta = [&](V total, int64_t c) {
      const int64_t channel = planes.channel + c;
      const A p_diff = *parameters.p1.at(planes.sample, channel) - *parameters.p2.at(planes.sample, channel);
      return times_p_diff_squared<A>(sum_of_lanes(total), p_diff);
    };
    for_runs(planes, [&](int64_t unit, int64_t channel, int64_t channels, int64_t first) {
      const S *const x_from = x + first, *const grad_from = grad_y + first;
      S* const to = grad_x ? grad_x + first : nullptr;
      OfSums total;
      if (with_sums) {
        total = totals[channel];
      }
      const auto compute = [&](int64_t i, auto io, auto acon_of, auto sums_of) ALWAYS_INLINE_LAMBDA {
        V grad[group], v[group];
        prefetch(x_from + i);
        prefetch(grad_from + i);
        io.load(grad_from + i, grad);
        io.load(x_from + i, v);
        for (int k = 0; k < group; ++k) {
          grad[k] = acon_of(k).template grad_x<with_sums>(grad[k], v[k], sums_of(k));
        }
        if (to) {
          io.store(to + i, grad);
        }
      };
      for_run(
          channels, planes.count, 0, acons(parameters, planes.sample + unit, planes.channel + channel),
          [&](int64_t i, auto io, const auto& acon) ALWAYS_INLINE_LAMBDA {
            compute(
                i, io, [&](int) ALWAYS_INLINE_LAMBDA { return acon; },
                [&](int) ALWAYS_INLINE_LAMBDA -> OfSums& { return total; });
          },
          [&](int64_t i, const auto& acon, const auto& next, const I(&mask)[group], int64_t c)
              ALWAYS_INLINE_LAMBDA {
                OfSums both[group] = {};
                compute(
                    i, Whole<S>(),
                    [&](int k) ALWAYS_INLINE_LAMBDA { return acon.selected(mask[k], acon, next); },
                    [&](int k) ALWAYS_INLINE_LAMBDA -> OfSums& { return both[k]; });
                for (int k = 0; with_sums && k < group; ++k) {
                  total.add(both[k], mask[k]);
                  totals[channel + c + 1].add(both[k], ~mask[k]);
                }
              },
          [&](int64_t c) ALWAYS_INLINE_LAMBDA {
            if (with_sums) {
              if (sums.beta_stride != 0) {
                sums.beta[unit * sums.beta_stride + channel + c] = of_beta(total.beta, channel + c);
                total.beta = V{};
              }
              totals[channel + c] = total;
              if (c + 1 < channels) {
                total = totals[channel + c + 1];
              }
            }
          });
    });
    for (int64_t c = 0; with_sums && c < planes.channels; ++c) {
      sums.p1[c] = sum_of_lanes(totals[c].p1);
      sums.p2[c] = sum_of_lanes(totals[c].p1_and_p2) - sums.p1[c];
      if (sums.beta_stride == 0) {
        sums.beta[c] = of_beta(totals[c].beta, c);
      }
      if constexpr (std::is_same_v<OfSums, NormedSums<A>>) {
        sums.z[c] = sum_of_lanes(totals[c].z);
        sums.z_u[c] = sum_of_lanes(totals[c].z_u);
      }
    }
  }

  // Calls f(first element, unit, channel of the task) for each plane.
  template <typename F>
  static void for_planes(const Planes& planes, F f) {
    for (int64_t unit = 0; unit < planes.units; ++unit) {
      for (int64_t c = 0; c < planes.channels; ++c) {
        f(unit * planes.unit_stride + c * planes.count, unit, c);
      }
    }
  }

  static void planes_sum(const S* x, const Planes& planes, A* sums, int64_t sums_stride) {
    for_planes(planes, [&](int64_t i, int64_t unit, int64_t c) {
      sums[unit * sums_stride + c] = plane_sum(x + i, planes.count);
    });
  }

  static A plane_sum(const S* x, int64_t count) {
    V sums[4] = {};
    const int64_t blocks = count / (4 * step) * (4 * step);
    for (int64_t i = 0; i < blocks; i += 4 * step) {
      for (int k = 0; k < 4; ++k) {
        V v[group];
        prefetch_line(x + i + k * step);
        Io<S>::load(x + i + k * step, v);
        for (V each : v) {
          sums[k] += each;
        }
      }
    }
    for_steps(count - blocks, [&](int64_t i, auto io) {
      V v[group];
      io.load(x + blocks + i, v);
      for (V each : v) {
        sums[0] += each;
      }
    });
    return sum_of_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
  }

  static void add_to_planes(S* x, const Planes& planes, const A* values, int64_t values_stride) {
    for_planes(planes, [&](int64_t first, int64_t unit, int64_t c) {
      const A value = values[unit * values_stride + c];
      for_steps(planes.count, [&](int64_t step_first, auto io) {
        const int64_t i = first + step_first;
        V v[group];
        prefetch_line(x + i);
        io.load(x + i, v);
        for (V& each : v) {
          each += value;
        }
        io.store(x + i, v);
      });
    });
  }
};

} // namespace
