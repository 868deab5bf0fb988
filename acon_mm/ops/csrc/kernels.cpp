// The loops over planes and rows (see Kernels in kernels.h). setup.py compiles this file once per instruction set;
// ACON_TABLE is the name of the table that it defines.
#include "formula.h"
#include "generator_loops.h"
#include "kernels.h"
#include "simd.h"

// The loops call functions that are given as arguments. These must become a part of the loop.
#define ALWAYS_INLINE __attribute__((always_inline)) inline
#define ALWAYS_INLINE_LAMBDA __attribute__((always_inline))

namespace {

using acon::Kernels;
using acon::kMaxPlanes;
using acon::Parameters;
using acon::Planes;
using acon::Rows;
using acon::SumsTo;

// Prefetches the beginning of the next page, once per page. Some processors prefetch only to the end of a page of 4
// KiB. Prefetching every line would cost the others more than it brings.
template <typename S>
inline void prefetch(const S* p) {
  constexpr uintptr_t page = 4096, line = 64, lines = 2;
  const uintptr_t from = reinterpret_cast<uintptr_t>(p) % page;
  if (from < Io<S>::step * sizeof(S)) {
    for (uintptr_t i = 0; i < lines; ++i) {
      __builtin_prefetch(reinterpret_cast<const char*>(p) - from + page + i * line);
    }
  }
}

// Prefetches one line. Loops that compute little gain from prefetching every line.
template <typename S>
inline void prefetch_line(const S* p) {
  __builtin_prefetch(reinterpret_cast<const char*>(p) + 2048);
}

// Loads and stores a whole step (see simd.h).
template <typename S>
struct Whole {
  using A = typename Io<S>::A;
  using Step = typename Io<S>::V[Io<S>::group];

  static void load(const S* from, Step& v) {
    Io<S>::load(from, v);
  }
  static void store(S* to, const Step& v) {
    Io<S>::store(to, v);
  }
  static void store_past_cache(S* to, const Step& v) {
    Io<S>::store_past_cache(to, v);
  }
  static void load_wide(const A* from, Step& v) {
    WideIo<S>::load(from, v);
  }
  static void store_wide(A* to, const Step& v) {
    WideIo<S>::store(to, v);
  }
};

// Loads and stores the last `n` elements, fewer than a step.
template <typename S>
struct Rest {
  using A = typename Io<S>::A;
  using Step = typename Io<S>::V[Io<S>::group];
  int n;

  void load(const S* from, Step& v) const {
    Io<S>::load(from, v, n);
  }
  void store(S* to, const Step& v) const {
    Io<S>::store(to, v, n);
  }
  void store_past_cache(S* to, const Step& v) const {
    store(to, v);
  }
  void load_wide(const A* from, Step& v) const {
    WideIo<S>::load(from, v, n);
  }
  void store_wide(A* to, const Step& v) const {
    WideIo<S>::store(to, v, n);
  }
};

template <typename S>
struct Loops {
  using A = typename acon::Compute<S>::type;
  using V = typename Vector<A>::type;
  using I = typename Vector<A>::ints;
  static constexpr int group = Io<S>::group;
  static constexpr int step = Io<S>::step;

  // Calls f(i, io) for each step of a plane, or of the channels of a row. `io` is Whole or Rest.
  template <typename F>
  static void for_steps(int64_t count, F f) {
    int64_t i = 0;
    for (; i + step <= count; i += step) {
      f(i, Whole<S>());
    }
    if (i < count) {
      f(i, Rest<S>{static_cast<int>(count - i)});
    }
  }

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
  // end(c) after each plane. acon_at(c) returns the AconC of a plane. The first `head` elements, fewer than a step, are
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

    AconC<A> acon = acon_at(0);
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
      const AconC<A> next = acon_at(c + 1);
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

  static void planes_forward(
      const S* x, S* y, const Planes& planes, const Parameters<A>& parameters, bool past_cache) {
    past_cache && planes.count >= step ? planes_forward<true>(x, y, planes, parameters)
                                       : planes_forward<false>(x, y, planes, parameters);
  }

  template <bool past_cache>
  static void planes_forward(const S* x, S* y, const Planes& planes, const Parameters<A>& parameters) {
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
          [&](int64_t i, auto io, const AconC<A>& acon) ALWAYS_INLINE_LAMBDA {
            compute(i, io, [&](int) ALWAYS_INLINE_LAMBDA { return acon; });
          },
          [&](int64_t i, const AconC<A>& acon, const AconC<A>& next, const I(&mask)[group], int64_t)
              ALWAYS_INLINE_LAMBDA {
                compute(i, Whole<S>(), [&](int k) ALWAYS_INLINE_LAMBDA {
                  return AconC<A>::selected(mask[k], acon, next);
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
    sums.p1 ? planes_backward<true>(grad_y, x, grad_x, planes, parameters, sums)
            : planes_backward<false>(grad_y, x, grad_x, planes, parameters, sums);
  }

  template <bool with_sums>
  static void planes_backward(
      const S* grad_y, const S* x, S* grad_x, const Planes& planes, const Parameters<A>& parameters,
      const SumsTo<A>& sums) {
    Sums<A> totals[kMaxPlanes];
    if (with_sums) {
      std::memset(totals, 0, planes.channels * sizeof(Sums<A>));
    }
    const auto of_beta = [&](V total, int64_t c) {
      const int64_t channel = planes.channel + c;
      const A p_diff = *parameters.p1.at(planes.sample, channel) - *parameters.p2.at(planes.sample, channel);
      return times_p_diff_squared<A>(sum_of_lanes(total), p_diff);
    };
    for_runs(planes, [&](int64_t unit, int64_t channel, int64_t channels, int64_t first) {
      const S *const x_from = x + first, *const grad_from = grad_y + first;
      S* const to = grad_x ? grad_x + first : nullptr;
      Sums<A> total;
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
          [&](int64_t i, auto io, const AconC<A>& acon) ALWAYS_INLINE_LAMBDA {
            compute(
                i, io, [&](int) ALWAYS_INLINE_LAMBDA { return acon; },
                [&](int) ALWAYS_INLINE_LAMBDA -> Sums<A>& { return total; });
          },
          [&](int64_t i, const AconC<A>& acon, const AconC<A>& next, const I(&mask)[group], int64_t c)
              ALWAYS_INLINE_LAMBDA {
                Sums<A> both[group] = {};
                compute(
                    i, Whole<S>(),
                    [&](int k) ALWAYS_INLINE_LAMBDA { return AconC<A>::selected(mask[k], acon, next); },
                    [&](int k) ALWAYS_INLINE_LAMBDA -> Sums<A>& { return both[k]; });
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

  // Rows are read in the order of memory, which prefetches best. Meanwhile the parameters and sums of their channels
  // must stay in the first cache. So many channels are cut into parts of at most `columns` channels.
  //
  // Columns holds one value per channel of a part, in the order of the vectors of a step.
  template <typename T, int64_t columns>
  using Columns = T[columns / step][group];

  template <int64_t columns>
  struct Part {
    int64_t channels; // of a row
    int64_t first, count; // channels of this part

    // Calls f(part) for each part; all have about the same size.
    template <typename F>
    static void for_each(int64_t channels, F f) {
      const int64_t parts = (channels + columns - 1) / columns;
      const int64_t most = parts == 0 ? 0 : ((channels + parts - 1) / parts + step - 1) / step * step;
      for (int64_t first = 0; first < channels; first += most) {
        f(Part{channels, first, channels - first < most ? channels - first : most});
      }
    }

    // Calls f(i, c, io) for each step of each row of a unit. `i` is its index from the first row of the task, `c` its
    // first channel in the part.
    template <typename F>
    void for_rows(const Rows& rows, int64_t unit, F f) const {
      const int64_t end = (unit + 1) * rows.count * channels;
      for (int64_t row = unit * rows.count * channels + first; row < end; row += channels) {
        for_steps(count, [&](int64_t c, auto io) { f(row + c, c, io); });
      }
    }

    // A part of a row ends before the next begins, so the processor cannot guess where to prefetch.
    void prefetch_input(const S* p) const {
      if (count < channels) {
        __builtin_prefetch(p + channels);
      } else {
        prefetch(p);
      }
    }
    void prefetch_output(S* p) const {
      if (count < channels) {
        __builtin_prefetch(p + channels, 1);
      }
    }

    void load(Columns<AconC<A>, columns>& acons, int64_t sample, const Parameters<A>& parameters) const {
      for_steps(count, [&](int64_t c, auto io) {
        const auto load = [&](const acon::Parameter<A>& p, V(&v)[group]) {
          if (p.channel_stride != 0) {
            return io.load_wide(p.at(sample, first + c), v);
          }
          for (V& each : v) {
            each = broadcast<V>(*p.at(sample, first + c));
          }
        };
        V p1[group], p2[group], beta[group];
        load(parameters.p1, p1);
        load(parameters.p2, p2);
        load(parameters.beta, beta);
        for (int k = 0; k < group; ++k) {
          acons[c / step][k] = AconC<A>(p1[k], p2[k], beta[k]);
        }
      });
    }
  };

  static void rows_forward(const S* x, S* y, const Rows& rows, const Parameters<A>& parameters) {
    constexpr int64_t columns = 8192 / sizeof(A);
    Part<columns>::for_each(rows.channels, [&](auto part) {
      Columns<AconC<A>, columns> acons;
      for (int64_t unit = 0; unit < rows.units; ++unit) {
        part.load(acons, rows.sample + unit, parameters);
        part.for_rows(rows, unit, [&](int64_t i, int64_t c, auto io) {
          V v[group];
          part.prefetch_input(x + i);
          part.prefetch_output(y + i);
          io.load(x + i, v);
          for (int k = 0; k < group; ++k) {
            v[k] = acons[c / step][k].y(v[k]);
          }
          io.store(y + i, v);
        });
      }
    });
  }

  static void rows_backward(
      const S* grad_y, const S* x, S* grad_x, const Rows& rows, const Parameters<A>& parameters,
      const SumsTo<A>& sums) {
    sums.p1 ? rows_backward<true>(grad_y, x, grad_x, rows, parameters, sums)
            : rows_backward<false>(grad_y, x, grad_x, rows, parameters, sums);
  }

  template <bool with_sums>
  static void rows_backward(
      const S* grad_y, const S* x, S* grad_x, const Rows& rows, const Parameters<A>& parameters,
      const SumsTo<A>& sums) {
    constexpr int64_t columns = 3072 / sizeof(A);
    Part<columns>::for_each(rows.channels, [&](auto part) {
      Columns<AconC<A>, columns> acons;
      Columns<Sums<A>, columns> totals;
      if (with_sums) {
        std::memset(totals, 0, sizeof(totals));
      }
      const auto store_beta = [&](A* to) {
        for_steps(part.count, [&](int64_t c, auto io) {
          V beta[group];
          for (int k = 0; k < group; ++k) {
            V& total = totals[c / step][k].beta;
            beta[k] = times_p_diff_squared<A>(total, acons[c / step][k].p_diff);
            total = V{};
          }
          io.store_wide(to + part.first + c, beta);
        });
      };
      for (int64_t unit = 0; unit < rows.units; ++unit) {
        part.load(acons, rows.sample + unit, parameters);
        part.for_rows(rows, unit, [&](int64_t i, int64_t c, auto io) {
          V grad[group], v[group];
          part.prefetch_input(x + i);
          part.prefetch_input(grad_y + i);
          io.load(grad_y + i, grad);
          io.load(x + i, v);
          for (int k = 0; k < group; ++k) {
            grad[k] = acons[c / step][k].template grad_x<with_sums>(grad[k], v[k], totals[c / step][k]);
          }
          if (grad_x) {
            part.prefetch_output(grad_x + i);
            io.store(grad_x + i, grad);
          }
        });
        if (with_sums && sums.beta_stride != 0) {
          store_beta(sums.beta + unit * sums.beta_stride);
        }
      }
      if (with_sums) {
        for_steps(part.count, [&](int64_t c, auto io) {
          V p1[group], p2[group];
          for (int k = 0; k < group; ++k) {
            const Sums<A>& total = totals[c / step][k];
            p1[k] = total.p1, p2[k] = total.p1_and_p2 - total.p1;
          }
          io.store_wide(sums.p1 + part.first + c, p1);
          io.store_wide(sums.p2 + part.first + c, p2);
        });
        if (sums.beta_stride == 0) {
          store_beta(sums.beta);
        }
      }
    });
  }

  static void rows_sum(const S* x, const Rows& rows, A* sums, int64_t sums_stride) {
    constexpr int64_t columns = 8192 / sizeof(A);
    Part<columns>::for_each(rows.channels, [&](auto part) {
      Columns<V, columns> totals;
      for (int64_t unit = 0; unit < rows.units; ++unit) {
        std::memset(totals, 0, sizeof(totals));
        part.for_rows(rows, unit, [&](int64_t i, int64_t c, auto io) {
          V v[group];
          prefetch_line(x + i);
          io.load(x + i, v);
          for (int k = 0; k < group; ++k) {
            totals[c / step][k] += v[k];
          }
        });
        A* const to = sums + unit * sums_stride + part.first;
        for_steps(part.count, [&](int64_t c, auto io) { io.store_wide(to + c, totals[c / step]); });
      }
    });
  }

  static void add_to_rows(S* x, const Rows& rows, const A* values, int64_t values_stride) {
    constexpr int64_t columns = 8192 / sizeof(A);
    Part<columns>::for_each(rows.channels, [&](auto part) {
      Columns<V, columns> value;
      for (int64_t unit = 0; unit < rows.units; ++unit) {
        const A* const from = values + unit * values_stride + part.first;
        for_steps(part.count, [&](int64_t c, auto io) { io.load_wide(from + c, value[c / step]); });
        part.for_rows(rows, unit, [&](int64_t i, int64_t c, auto io) {
          V v[group];
          prefetch_line(x + i);
          io.load(x + i, v);
          for (int k = 0; k < group; ++k) {
            v[k] += value[c / step][k];
          }
          io.store(x + i, v);
        });
      }
    });
  }

  static constexpr Kernels<S> all() {
    return {planes_forward, planes_backward, planes_sum, add_to_planes,
            rows_forward,   rows_backward,   rows_sum,   add_to_rows};
  }
};

} // namespace

#define ACON_TEXT_(name) #name
#define ACON_TEXT(name) ACON_TEXT_(name)

namespace acon {
const Table ACON_TABLE = {
    ACON_TEXT(ACON_TABLE), LayerLoops<float>::all(), LayerLoops<double>::all(), Loops<float>::all(),
    Loops<double>::all(),  Loops<BFloat16>::all(),   Loops<Float16>::all()};
} // namespace acon
