// How the kernels walk a tensor: as planes or as rows, cut into chunks.
#pragma once

#include <ATen/ATen.h>
#include <algorithm>

namespace acon {

// A tensor as (N, B, C, S): N samples of B blocks, each with C channels of S elements. With S = 1 the walk is by rows:
// the channels of one position are neighbors.
//
// The size of a chunk does not depend on the number of threads. So sums are equal to the last bit for any number of
// threads.
struct Layout {
  int64_t samples, blocks, channels, inner;
  bool rows;
  int64_t chunk; // elements of a plane, or rows, in a chunk
  int64_t chunks; // of a plane, or of a sample

  static constexpr int64_t kChunkElements = 16384;
  // A chunk of rows has one sum per channel. Longer chunks keep these few, compared with the elements.
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

  // The number of tasks that is worth a thread.
  int64_t grain() const {
    const int64_t elements = rows ? chunk * channels : std::min(chunk, inner);
    return std::max<int64_t>(1, kChunkElements / std::max<int64_t>(elements, 1));
  }
};

// A chunk of a plane: its first element and its length.
struct PlaneTask {
  int64_t sample, channel, offset, count;

  PlaneTask(const Layout& layout, int64_t task) {
    // A division takes as long as the arithmetic of a vector, and there may be many small planes.
    const bool whole = layout.chunks == 1;
    const int64_t plane = whole ? task : task / layout.chunks, from = whole ? 0 : task % layout.chunks * layout.chunk;
    sample = plane / layout.channels;
    sample = layout.blocks == 1 ? sample : sample / layout.blocks;
    channel = plane % layout.channels;
    offset = plane * layout.inner + from;
    count = std::clamp<int64_t>(layout.inner - from, 0, layout.chunk);
  }
};

// Some rows of a sample: the first element and the number of rows.
struct RowTask {
  int64_t sample, offset, count;

  RowTask(const Layout& layout, int64_t task) {
    sample = task / layout.chunks;
    const int64_t from = task % layout.chunks * layout.chunk;
    offset = (sample * layout.blocks + from) * layout.channels;
    count = std::min(layout.chunk, layout.blocks - from);
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

// The elements of a tensor; null where there is no tensor.
template <typename S>
S* data(const at::Tensor& t) {
  return t.defined() ? static_cast<S*>(t.data_ptr()) : nullptr;
}
template <typename S>
const S* const_data(const at::Tensor& t) {
  return t.defined() ? static_cast<const S*>(t.const_data_ptr()) : nullptr;
}

} // namespace acon
