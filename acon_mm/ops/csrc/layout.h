// How the kernels see a tensor: as planes or as rows, cut into chunks.
#pragma once

#include <ATen/ATen.h>
#include <algorithm>

namespace acon {

// (N, B, C, S): N samples of B blocks each, in which C channels of S elements follow one another. S = 1 makes rows: the
// channels of one position are neighbours.
//
// Work is cut into chunks of a fixed size, which the number of threads has no part in, so sums are the same to the bit for
// any number of them.
struct Layout {
  int64_t samples, blocks, channels, inner;
  bool rows;
  int64_t chunk; // elements of a plane, or rows, in a chunk
  int64_t chunks; // of a plane, or of a sample

  static constexpr int64_t kChunkElements = 16384;
  // Rows add up per column: longer chunks, so that the sums stay small beside what they are sums of.
  static constexpr int64_t kRowChunkElements = 131072;

  Layout(at::IntArrayRef sizes, int64_t channel_dim, bool channels_last) {
    samples = sizes[0];
    channels = sizes[channel_dim];
    blocks = inner = 1;
    for (int64_t d = 1; d < static_cast<int64_t>(sizes.size()); ++d) {
      if (d != channel_dim) {
        (d < channel_dim || channels_last ? blocks : inner) *= sizes[d];
      }
    }
    rows = inner == 1;
    if (rows) {
      chunk = std::clamp<int64_t>(kRowChunkElements / std::max<int64_t>(channels, 1), 1, std::max<int64_t>(blocks, 1));
      chunks = (blocks + chunk - 1) / chunk;
    } else {
      chunks = (inner + kChunkElements - 1) / kChunkElements;
      // Chunks of equal size, in whole cache lines.
      chunk = chunks == 0 ? 0 : ((inner + chunks - 1) / chunks + 63) / 64 * 64;
    }
  }

  int64_t tasks() const {
    return rows ? samples * chunks : samples * blocks * channels * chunks;
  }

  // Tasks that are worth a thread of their own.
  int64_t grain() const {
    const int64_t elements = rows ? chunk * channels : std::min(chunk, inner);
    return std::max<int64_t>(1, kChunkElements / std::max<int64_t>(elements, 1));
  }
};

// One chunk of a plane: where it starts, and its length.
struct PlaneTask {
  int64_t sample, channel, offset, count;

  PlaneTask(const Layout& layout, int64_t task) {
    // Divisions are as slow as a vector's whole arithmetic, and small planes are many.
    const bool whole = layout.chunks == 1;
    const int64_t plane = whole ? task : task / layout.chunks, from = whole ? 0 : task % layout.chunks * layout.chunk;
    sample = plane / layout.channels;
    sample = layout.blocks == 1 ? sample : sample / layout.blocks;
    channel = plane % layout.channels;
    offset = plane * layout.inner + from;
    count = std::clamp<int64_t>(layout.inner - from, 0, layout.chunk);
  }
};

// Some rows of a sample: where they start, and how many.
struct RowTask {
  int64_t sample, offset, count;

  RowTask(const Layout& layout, int64_t task) {
    sample = task / layout.chunks;
    const int64_t from = task % layout.chunks * layout.chunk;
    offset = (sample * layout.blocks + from) * layout.channels;
    count = std::min(layout.chunk, layout.blocks - from);
  }
};

// Whether the channels of a position are neighbours in memory: channels_last, or a transposed (N, L, C).
inline bool is_channels_last(const at::Tensor& x, int64_t channel_dim) {
  return !x.is_contiguous() && x.movedim(channel_dim, -1).is_contiguous();
}

// A result of the shape of `x`: dense inputs keep their strides, others become contiguous.
inline at::Tensor like(const at::Tensor& x) {
  return at::empty_like(
      x, x.is_non_overlapping_and_dense() ? at::MemoryFormat::Preserve : at::MemoryFormat::Contiguous);
}

// `x` in an order of memory that the kernels can walk: as it is, or copied.
inline at::Tensor walkable(const at::Tensor& x, int64_t channel_dim) {
  return is_channels_last(x, channel_dim) ? x : x.contiguous();
}

// `other` in the order of memory of `x`.
inline at::Tensor ordered_as(const at::Tensor& other, const at::Tensor& x) {
  return other.strides() == x.strides() ? other : at::empty_like(x).copy_(other);
}

} // namespace acon
