// The loops over rows (see Kernels in kernels.h).
#pragma once

#include <array>

#include "steps.h"

namespace {

using acon::NormedGradients;
using acon::NormedParameters;
using acon::Parameters;
using acon::Rows;
using acon::SumsTo;

template <typename S>
struct RowLoops : Steps<S> {
  using A = typename Steps<S>::A;
  using V = typename Steps<S>::V;
  using Steps<S>::group;
  using Steps<S>::step;
  using Steps<S>::for_steps;

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

    // Returns the activations of the channels from `c` on.
    template <typename IO>
    auto load(const Parameters<A>& parameters, int64_t sample, int64_t c, IO io) const {
      V p1[group], p2[group], beta[group];
      load(parameters.p1, sample, c, io, p1);
      load(parameters.p2, sample, c, io, p2);
      load(parameters.beta, sample, c, io, beta);
      std::array<AconC<A>, group> acons;
      for (int k = 0; k < group; ++k) {
        acons[k] = AconC<A>(p1[k], p2[k], beta[k]);
      }
      return acons;
    }
    template <typename IO>
    auto load(const NormedParameters<A>& parameters, int64_t sample, int64_t c, IO io) const {
      const auto of_acon = load(static_cast<const Parameters<A>&>(parameters), sample, c, io);
      V scale[group], shift[group];
      io.load_wide(parameters.scale + first + c, scale);
      io.load_wide(parameters.shift + first + c, shift);
      std::array<NormedAconC<A>, group> acons;
      for (int k = 0; k < group; ++k) {
        acons[k] = {of_acon[k], scale[k], shift[k]};
      }
      return acons;
    }
    template <typename IO>
    auto load(const NormedGradients<A>& parameters, int64_t sample, int64_t c, IO io) const {
      const auto of_acon = load(static_cast<const NormedParameters<A>&>(parameters), sample, c, io);
      V mean[group], a[group], b[group], of_c[group];
      io.load_wide(parameters.mean + first + c, mean);
      io.load_wide(parameters.a + first + c, a);
      io.load_wide(parameters.b + first + c, b);
      load(parameters.c, sample, c, io, of_c);
      std::array<NormedAconCGradients<A>, group> acons;
      for (int k = 0; k < group; ++k) {
        acons[k] = {of_acon[k], mean[k], a[k], b[k], of_c[k]};
      }
      return acons;
    }
    template <typename IO>
    void load(const acon::Parameter<A>& parameter, int64_t sample, int64_t c, IO io, V (&values)[group]) const {
      if (parameter.channel_stride != 0) {
        return io.load_wide(parameter.at(sample, first + c), values);
      }
      for (V& each : values) {
        each = broadcast<V>(*parameter.at(sample, first + c));
      }
    }
    template <typename P, typename Acon>
    void load_all(Acon& acons, int64_t sample, const P& parameters) const {
      for_steps(count, [&](int64_t c, auto io) { acons[c / step] = load(parameters, sample, c, io); });
    }
  };

  // What `P` makes of a step of channels.
  template <typename P>
  using Acons = decltype(Part<step>().load(std::declval<const P&>(), 0, 0, Whole<S>()));

  static void rows_forward(const S* x, S* y, const Rows& rows, const Parameters<A>& parameters) {
    any_rows_forward<8192 / sizeof(A)>(x, y, rows, parameters);
  }

  static void normed_rows_forward(const S* u, S* y, const Rows& rows, const NormedParameters<A>& parameters) {
    any_rows_forward<4096 / sizeof(A)>(u, y, rows, parameters);
  }

  template <int64_t columns, typename P>
  static void any_rows_forward(const S* x, S* y, const Rows& rows, const P& parameters) {
    Part<columns>::for_each(rows.channels, [&](auto part) {
      Acons<P> acons[columns / step];
      for (int64_t unit = 0; unit < rows.units; ++unit) {
        part.load_all(acons, rows.sample + unit, parameters);
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
    constexpr int64_t columns = 3072 / sizeof(A);
    sums.p1 ? any_rows_backward<true, columns>(grad_y, x, grad_x, rows, parameters, sums)
            : any_rows_backward<false, columns>(grad_y, x, grad_x, rows, parameters, sums);
  }

  static void normed_rows_backward(
      const S* grad_y, const S* u, S* grad_u, const Rows& rows, const NormedGradients<A>& parameters,
      const SumsTo<A>& sums) {
    constexpr int64_t columns = 1536 / sizeof(A);
    sums.p1 ? any_rows_backward<true, columns>(grad_y, u, grad_u, rows, parameters, sums)
            : any_rows_backward<false, columns>(grad_y, u, grad_u, rows, parameters, sums);
  }

  template <bool with_sums, int64_t columns, typename P>
  static void any_rows_backward(
      const S* grad_y, const S* x, S* grad_x, const Rows& rows, const P& parameters, const SumsTo<A>& sums) {
    using OfSums = typename Acons<P>::value_type::OfSums;
    Part<columns>::for_each(rows.channels, [&](auto part) {
      Acons<P> acons[columns / step];
      Columns<OfSums, columns> totals;
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
        part.load_all(acons, rows.sample + unit, parameters);
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
            const OfSums& total = totals[c / step][k];
            p1[k] = total.p1, p2[k] = total.p1_and_p2 - total.p1;
          }
          io.store_wide(sums.p1 + part.first + c, p1);
          io.store_wide(sums.p2 + part.first + c, p2);
          if constexpr (std::is_same_v<OfSums, NormedSums<A>>) {
            V z[group], z_u[group];
            for (int k = 0; k < group; ++k) {
              z[k] = totals[c / step][k].z, z_u[k] = totals[c / step][k].z_u;
            }
            io.store_wide(sums.z + part.first + c, z);
            io.store_wide(sums.z_u + part.first + c, z_u);
          }
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
};

} // namespace
