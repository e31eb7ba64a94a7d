// Schemas of the compiled operators. They are the back ends of spae_ops' Python operators, which check arguments.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(spae_ops, library) {
  library.def(
      "nearest_code_cpu_prepare(Tensor codes) -> (Tensor panels, Tensor panels8, Tensor bounds, Tensor frame)");
  library.def(
      "nearest_code_cpu_search(Tensor x, Tensor codes, Tensor panels, Tensor panels8, Tensor bounds, Tensor frame, "
      "Tensor? mask, int k, str isa, str screen, str prune) -> (Tensor ids, Tensor sqdist, Tensor rescored)");
  // The CUDA kernels in the order in which spae_ops/lookup/tensor_cores.py runs them; it says what the shapes are.
  library.def("nearest_code_cuda_frame(Tensor x, Tensor frame, Tensor(a!) out, Tensor(b!) measured) -> ()");
  library.def(
      "nearest_code_cuda_screen(Tensor queries, Tensor table, Tensor inverse, Tensor bias, Tensor(a!) scores, "
      "int tiles_per_split, int processors, bool sm90a) -> ()");
  library.def(
      "nearest_code_cuda_certify(Tensor x, Tensor codes, Tensor scores, Tensor bounds, Tensor measured, "
      "Tensor(a!) threshold, Tensor(b!) ids, Tensor(c!) sqdist) -> ()");
  library.def(
      "nearest_code_cuda_resolve(Tensor x, Tensor codes, Tensor scores, Tensor bounds, Tensor measured, Tensor bias, "
      "Tensor threshold, Tensor? after, Tensor? after_ids, Tensor(a!) ids, Tensor(b!) sqdist, int tiles_per_range) "
      "-> ()");
  library.def(
      "nearest_code_cuda_merge(Tensor partial_ids, Tensor partial, Tensor threshold, Tensor(a!) ids, "
      "Tensor(b!) sqdist) -> ()");
  library.def(
      "distance_cross_entropy_cpu(Tensor x, Tensor codes, Tensor panels, Tensor panels8, Tensor bounds, Tensor frame, "
      "Tensor target, float temperature, bool with_gradient, str isa, str truncate) "
      "-> (Tensor loss, Tensor gradient, Tensor evaluated)");
  library.def(
      "pyramid_queries_cpu(Tensor z, Tensor ids, Tensor codes, Tensor positions, Tensor chains, bool average) -> Tensor");
  library.def("pyramid_features_cpu(Tensor ids, Tensor codes, Tensor chains, bool average) -> Tensor");
}
