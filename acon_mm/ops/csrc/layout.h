// How the kernels walk a tensor: as planes or as rows, cut into tasks.
#pragma once

#include <ATen/ATen.h>
#include <algorithm>

#include "compat.h"
#include "kernels.h"

namespace acon {

// What a task may put together.
enum class Units {
  merged, // no parameter has a dimension of samples: samples need not be told apart
  grouped, // samples that follow one another; the gradient of p1 and p2 is summed over them
  single, // one sample
};

inline int64_t divided_up(int64_t count, int64_t by) {
  return (count + by - 1) / by;
}

// A tensor as (N, B, C, S): N samples of B blocks, each with C channels of S elements. With S = 1 the walk is by rows:
// the channels of one position are neighbors, and a unit is a sample, with B rows. Otherwise a unit is a block, with a
// plane of S elements for each channel.
//
// A task is a part of a unit, or a group of small units. Its size does not depend on the number of threads. So sums are
// equal to the last bit for any number of threads.
struct Layout {
  int64_t samples, blocks, channels, inner;
  bool rows;
  int64_t units;
  int64_t chunk, chunks; // elements of a plane, or rows of a sample, in a task; how many of these a plane or sample has
  int64_t part, parts; // channels in a task of planes; how many of these a unit has
  int64_t group, groups; // units in a task

  // Fewer elements are not worth a task. More elements of one plane, or of a whole tensor, make no difference.
  static constexpr int64_t kFewElements = 16384, kManyElements = 131072, kTasks = 128;
  // A task of rows has a sum per channel. With more rows, these are few, compared with the elements.
  static constexpr int64_t kFewRows = 32;
  // With more rows, sums of one after the other would be less exact.
  static constexpr int64_t kManyRows = 2048;

  Layout(at::IntArrayRef sizes, int64_t channel_dim, bool channels_last, Units task_units) {
    samples = sizes[0];
    channels = sizes[channel_dim];
    blocks = inner = 1;
    for (int64_t d = 1; d < static_cast<int64_t>(sizes.size()); ++d) {
      if (d != channel_dim) {
        (d < channel_dim || channels_last ? blocks : inner) *= sizes[d];
      }
    }
    rows = inner == 1;
    if (task_units == Units::merged) {
      blocks *= samples;
      samples = 1;
    }
    const int64_t elements =
        std::clamp(samples * blocks * channels * inner / kTasks, kFewElements, kManyElements);
    const auto at_least_1 = [](int64_t n) { return std::max<int64_t>(n, 1); };
    if (rows) {
      units = samples;
      part = channels, parts = 1;
      chunk = std::clamp(elements / at_least_1(channels), kFewRows, std::clamp(blocks, kFewRows, kManyRows));
      chunks = divided_up(blocks, chunk);
    } else {
      units = samples * blocks;
      chunks = divided_up(inner, kFewElements);
      if (chunks > 1) { // of equal size, in whole cache lines
        chunk = divided_up(divided_up(inner, chunks), 64) * 64;
        chunks = divided_up(inner, chunk);
      } else {
        chunk = inner;
      }
      part = chunks > 1 ? 1 : std::min({at_least_1(elements / at_least_1(inner)), channels, kMaxPlanes});
      parts = divided_up(channels, at_least_1(part));
      part = divided_up(channels, at_least_1(parts));
    }
    // Blocks of a sample share its parameters, but those of a group would have to be told apart.
    const bool can_group = chunks == 1 && task_units != Units::single && (rows || samples == 1 || blocks == 1);
    const int64_t of_unit = at_least_1(rows ? blocks * channels : part * inner);
    group = can_group ? std::clamp<int64_t>(divided_up(elements, of_unit), 1, at_least_1(units)) : 1;
    groups = divided_up(units, group);
  }

  int64_t tasks() const {
    return groups * parts * chunks;
  }

  // The number of tasks that is worth a thread.
  int64_t grain() const {
    const int64_t elements = group * std::min(chunk, rows ? blocks : inner) * part;
    return std::max<int64_t>(1, kFewElements / std::max<int64_t>(elements, 1));
  }
};

// What a task computes: some units, channels, and elements or rows.
struct Task {
  int64_t unit, units; // the first one, and how many
  int64_t sample; // of the first unit
  int64_t channel, channels;
  int64_t offset, count; // of the first element; elements of a plane, or rows of a unit
  // Where its sums go: one row for each task of a channel. A unit has `chunks` of them where its sums are its own.
  int64_t row, row_of_unit;

  Task(const Layout& layout, int64_t task) {
    const int64_t chunk = task % layout.chunks, part = task / layout.chunks % layout.parts,
                  group = task / layout.chunks / layout.parts;
    unit = group * layout.group;
    units = std::min(layout.group, layout.units - unit);
    sample = layout.rows ? unit : unit / layout.blocks;
    channel = part * layout.part;
    channels = std::min(layout.part, layout.channels - channel);
    const int64_t from = chunk * layout.chunk;
    if (layout.rows) {
      offset = (unit * layout.blocks + from) * layout.channels;
      count = std::min(layout.chunk, layout.blocks - from);
    } else {
      offset = (unit * layout.channels + channel) * layout.inner + from;
      count = std::min(layout.chunk, layout.inner - from);
    }
    row = group * layout.chunks + chunk;
    row_of_unit = unit * layout.chunks + chunk;
  }
};

// Whether the channels of a position are neighbors in memory, as in channels_last or a transposed (N, L, C).
inline bool is_channels_last(const at::Tensor& x, int64_t channel_dim) {
  return !x.is_contiguous() && x.movedim(channel_dim, -1).is_contiguous();
}

// An empty result of the shape of `x`. It has the strides of `x` where these are dense, and is contiguous otherwise.
inline at::Tensor like(const at::Tensor& x) {
  return at::empty_like(
      x, x.is_non_overlapping_and_dense() ? at::MemoryFormat::Preserve : at::MemoryFormat::Contiguous);
}

// `x` as it is where the kernels can walk it, otherwise a contiguous copy.
inline at::Tensor walkable(const at::Tensor& x, int64_t channel_dim) {
  return is_channels_last(x, channel_dim) ? x : x.contiguous();
}

// `other` in the order of memory of `x`.
inline at::Tensor ordered_as(const at::Tensor& other, const at::Tensor& x) {
  return other.strides() == x.strides() ? other : at::empty_like(x).copy_(other);
}

} // namespace acon
