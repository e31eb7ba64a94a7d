// Schemas of the compiled operators. They are the back ends of spae_ops' Python operators, which check arguments.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(spae_ops, library) {
  library.def(
      "nearest_code_cpu_prepare(Tensor codes) -> (Tensor panels, Tensor panels8, Tensor bounds, Tensor frame)");
  library.def(
      "nearest_code_cpu_search(Tensor x, Tensor codes, Tensor panels, Tensor panels8, Tensor bounds, Tensor frame, "
      "Tensor? mask, int k, str isa, str screen, str prune) -> (Tensor ids, Tensor sqdist, Tensor rescored)");
}
