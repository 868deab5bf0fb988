// The table of the loops (see Kernels in kernels.h). setup.py compiles this file once per instruction set; ACON_TABLE is
// the name of the table that it defines.
#include "generator_loops.h"
#include "kernels.h"
#include "plane_loops.h"
#include "row_loops.h"

namespace {

template <typename S>
constexpr acon::Kernels<S> loops() {
  using P = PlaneLoops<S>;
  using R = RowLoops<S>;
  return {P::planes_forward,        P::planes_backward, P::normed_planes_forward, P::normed_planes_backward,
          P::planes_sum,            P::add_to_planes,   R::rows_forward,          R::rows_backward,
          R::normed_rows_forward,   R::normed_rows_backward, R::rows_sum,         R::add_to_rows};
}

} // namespace

#define ACON_TEXT_(name) #name
#define ACON_TEXT(name) ACON_TEXT_(name)

namespace acon {
const Table ACON_TABLE = {
    ACON_TEXT(ACON_TABLE), LayerLoops<float>::all(), LayerLoops<double>::all(), loops<float>(),
    loops<double>(),       loops<BFloat16>(),        loops<Float16>()};
} // namespace acon
