// The Python module. Importing it registers the operators; what it holds says how it was built and what it can use.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "simd/simd.h"

PYBIND11_MODULE(_C, module) {
  module.doc() = "Compiled operators of spae_ops.";
  module.def(
      "instruction_sets",
      [] {
        std::vector<std::string> names;
        for (const auto name : spae::simd::available()) names.emplace_back(name);
        return names;
      },
      "Instruction sets that run on this processor, fastest first.");
  module.attr("compiler") = __VERSION__;
#ifdef SPAE_WITH_CUDA
  module.attr("with_cuda") = true;
#else
  module.attr("with_cuda") = false;
#endif
  module.attr("torch_target_version") = std::to_string(TORCH_TARGET_VERSION >> 56) + "." +
                                        std::to_string((TORCH_TARGET_VERSION >> 48) & 0xff);
}
