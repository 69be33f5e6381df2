// Prints what the refinement asks of a chip, for tests/plugin/test_ptxas.py: one line per instance,
// bytes-per-element width column-tiles shared-bytes most-threads.
#include <cstdio>

#include "../../../plugin/kernels/refine.cuh"

namespace {

template <class Element, int kWidth, int kTiles>
void print() {
  using Traits = emra::Refinement<Element, kWidth, kTiles>;
  std::printf("%d %d %d %d %d\n", Element::kBytes, kWidth, kTiles, Traits::kSharedBytes, Traits::kMaxWarps * 32);
}

template <class Element, int kWidth>
void print_width() {
  if (Element::kBytes == 2) print<Element, kWidth, 1>();
  print<Element, kWidth, 2>();
  print<Element, kWidth, 5>();
}

template <class Element>
void print_element() {
  print_width<Element, 32>();
  print_width<Element, 64>();
  print_width<Element, 80>();
  print_width<Element, 128>();
}

}  // namespace

int main() {
  print_element<emra::Half>();
  print_element<emra::Float>();
  return 0;
}
