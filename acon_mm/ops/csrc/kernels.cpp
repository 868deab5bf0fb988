// The loops over planes and rows (see Kernels in kernels.h). setup.py compiles this file once per instruction set;
// ACON_TABLE is the name of the table that it defines.
#include "formula.h"
#include "generator_loops.h"
#include "kernels.h"
#include "simd.h"

namespace {

using acon::kBetaSum;
using acon::kP1Sum;
using acon::kP2Sum;
using acon::Kernels;
using acon::Parameters;

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

  static void activate(const AconC<A>& acon, const S* x, S* y, int64_t count) {
    for_steps(count, [&](int64_t i, auto io) {
      V v[group];
      prefetch(x + i);
      io.load(x + i, v);
      for (V& each : v) {
        each = acon.y(each);
      }
      io.store(y + i, v);
    });
  }

  static void plane_forward(const S* x, S* y, int64_t count, A p1, A p2, A beta, bool past_cache) {
    const AconC<A> acon(p1, p2, beta);
    int64_t i = 0;
    if (past_cache) {
      const int64_t to_boundary = -(reinterpret_cast<uintptr_t>(y) / sizeof(S)) % (kBytes / sizeof(S));
      i = to_boundary < count ? to_boundary : count;
      activate(acon, x, y, i);
      for (; i + step <= count; i += step) {
        V v[group];
        prefetch(x + i);
        Io<S>::load(x + i, v);
        for (V& each : v) {
          each = acon.y(each);
        }
        Io<S>::store_past_cache(y + i, v);
      }
      finish_streams();
    }
    activate(acon, x + i, y + i, count - i);
  }

  static void plane_backward(
      const S* grad_y, const S* x, S* grad_x, int64_t count, A p1, A p2, A beta, A* sums) {
    const AconC<A> acon(p1, p2, beta);
    Sums<A> total = {};
    for_steps(count, [&](int64_t i, auto io) {
      V grad[group], v[group];
      prefetch(x + i);
      prefetch(grad_y + i);
      io.load(grad_y + i, grad);
      io.load(x + i, v);
      for (int k = 0; k < group; ++k) {
        grad[k] = acon.grad_x(grad[k], v[k], total);
      }
      io.store(grad_x + i, grad);
    });
    sums[kP1Sum] = sum_of_lanes(total.p1);
    sums[kP2Sum] = sum_of_lanes(total.p1_and_p2) - sums[kP1Sum];
    sums[kBetaSum] = times_p_diff_squared<A>(sum_of_lanes(total.beta), p1 - p2);
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

  static void add_to_plane(S* x, int64_t count, A value) {
    for_steps(count, [&](int64_t i, auto io) {
      V v[group];
      prefetch_line(x + i);
      io.load(x + i, v);
      for (V& each : v) {
        each += value;
      }
      io.store(x + i, v);
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

    // Calls f(i, c, io) for each step of each row. `i` is its index from the first row, `c` its first channel in the
    // part.
    template <typename F>
    void for_rows(int64_t rows, F f) const {
      for (int64_t row = first; row < rows * channels; row += channels) {
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

  static void rows_forward(
      const S* x, S* y, int64_t count, int64_t channels, int64_t sample, const Parameters<A>& parameters) {
    constexpr int64_t columns = 8192 / sizeof(A);
    Part<columns>::for_each(channels, [&](auto part) {
      Columns<AconC<A>, columns> acons;
      part.load(acons, sample, parameters);
      part.for_rows(count, [&](int64_t i, int64_t c, auto io) {
        V v[group];
        part.prefetch_input(x + i);
        part.prefetch_output(y + i);
        io.load(x + i, v);
        for (int k = 0; k < group; ++k) {
          v[k] = acons[c / step][k].y(v[k]);
        }
        io.store(y + i, v);
      });
    });
  }

  static void rows_backward(
      const S* grad_y, const S* x, S* grad_x, int64_t count, int64_t channels, int64_t sample,
      const Parameters<A>& parameters, A* sums) {
    constexpr int64_t columns = 3072 / sizeof(A);
    Part<columns>::for_each(channels, [&](auto part) {
      Columns<AconC<A>, columns> acons;
      part.load(acons, sample, parameters);
      Columns<Sums<A>, columns> totals;
      std::memset(totals, 0, sizeof(totals));
      part.for_rows(count, [&](int64_t i, int64_t c, auto io) {
        V grad[group], v[group];
        part.prefetch_input(x + i);
        part.prefetch_input(grad_y + i);
        part.prefetch_output(grad_x + i);
        io.load(grad_y + i, grad);
        io.load(x + i, v);
        for (int k = 0; k < group; ++k) {
          grad[k] = acons[c / step][k].grad_x(grad[k], v[k], totals[c / step][k]);
        }
        io.store(grad_x + i, grad);
      });
      for_steps(part.count, [&](int64_t c, auto io) {
        V p1[group], p2[group], beta[group];
        for (int k = 0; k < group; ++k) {
          const Sums<A>& total = totals[c / step][k];
          p1[k] = total.p1, p2[k] = total.p1_and_p2 - total.p1, beta[k] = total.beta;
        }
        A* const to = sums + part.first + c;
        io.store_wide(to + kP1Sum * channels, p1);
        io.store_wide(to + kP2Sum * channels, p2);
        io.store_wide(to + kBetaSum * channels, beta);
      });
    });
    for (int64_t c = 0; c < channels; ++c) {
      const A p_diff = *parameters.p1.at(sample, c) - *parameters.p2.at(sample, c);
      sums[kBetaSum * channels + c] = times_p_diff_squared(sums[kBetaSum * channels + c], p_diff);
    }
  }

  static void rows_sum(const S* x, int64_t count, int64_t channels, A* sums) {
    constexpr int64_t columns = 8192 / sizeof(A);
    Part<columns>::for_each(channels, [&](auto part) {
      Columns<V, columns> totals;
      std::memset(totals, 0, sizeof(totals));
      part.for_rows(count, [&](int64_t i, int64_t c, auto io) {
        V v[group];
        prefetch_line(x + i);
        io.load(x + i, v);
        for (int k = 0; k < group; ++k) {
          totals[c / step][k] += v[k];
        }
      });
      for_steps(part.count, [&](int64_t c, auto io) { io.store_wide(sums + part.first + c, totals[c / step]); });
    });
  }

  static void add_to_rows(S* x, int64_t count, int64_t channels, const A* values) {
    constexpr int64_t columns = 8192 / sizeof(A);
    Part<columns>::for_each(channels, [&](auto part) {
      Columns<V, columns> value;
      for_steps(part.count, [&](int64_t c, auto io) { io.load_wide(values + part.first + c, value[c / step]); });
      part.for_rows(count, [&](int64_t i, int64_t c, auto io) {
        V v[group];
        prefetch_line(x + i);
        io.load(x + i, v);
        for (int k = 0; k < group; ++k) {
          v[k] += value[c / step][k];
        }
        io.store(x + i, v);
      });
    });
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
    ACON_TEXT(ACON_TABLE), LayerLoops<float>::all(), LayerLoops<double>::all(), Loops<float>::all(),
    Loops<double>::all(),  Loops<BFloat16>::all(),   Loops<Float16>::all()};
} // namespace acon
