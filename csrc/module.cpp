// The Python module. Importing it registers the operators; what it holds says how it was built and what it can use.
// Plain C API, limited to that of Python 3.10: one binary serves that version and later ones.
#include <Python.h>

#include <string>

#include "simd/simd.h"

#define SPAE_TEXT(...) #__VA_ARGS__
#define SPAE_TEXT_OF(...) SPAE_TEXT(__VA_ARGS__)

namespace {

// A new list of strings, fastest first.
PyObject* instruction_sets(PyObject*, PyObject*) {
  PyObject* names = PyList_New(0);
  if (names == nullptr) return nullptr;
  for (const auto name : spae::simd::available()) {
    PyObject* text = PyUnicode_FromStringAndSize(name.data(), static_cast<Py_ssize_t>(name.size()));
    const bool added = text != nullptr && PyList_Append(names, text) == 0;
    Py_XDECREF(text);
    if (!added) {
      Py_DECREF(names);
      return nullptr;
    }
  }
  return names;
}

int fill(PyObject* module) {
#ifdef SPAE_WITH_CUDA
  PyObject* with_cuda = Py_True;
#else
  PyObject* with_cuda = Py_False;
#endif
#ifdef SPAE_CUDA_ARCHITECTURES  // "80,90": setup.py's, of the binaries; the last one's PTX is there too
  const char* architectures = SPAE_TEXT_OF(SPAE_CUDA_ARCHITECTURES);
#else
  const char* architectures = "";
#endif
  const std::string torch = std::to_string(TORCH_TARGET_VERSION >> 56) + "." +
                            std::to_string((TORCH_TARGET_VERSION >> 48) & 0xff);
  if (PyModule_AddStringConstant(module, "compiler", __VERSION__) < 0) return -1;
  if (PyModule_AddObjectRef(module, "with_cuda", with_cuda) < 0) return -1;
  if (PyModule_AddStringConstant(module, "cuda_architectures", architectures) < 0) return -1;
  return PyModule_AddStringConstant(module, "torch_target_version", torch.c_str());
}

PyMethodDef methods[] = {
    {"instruction_sets", instruction_sets, METH_NOARGS, "Instruction sets that run on this processor, fastest first."},
    {nullptr, nullptr, 0, nullptr}};
PyModuleDef_Slot slots[] = {{Py_mod_exec, reinterpret_cast<void*>(fill)}, {0, nullptr}};
PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_C", "Compiled operators of spae_ops.", 0, methods, slots, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() { return PyModuleDef_Init(&definition); }
