// The Python module. Importing it registers the operators; what it holds says how it was built and what it can use.
// Plain C API, limited to that of Python 3.10: one binary serves that version and later ones.
#include <Python.h>

#include <string>

#include "simd/simd.h"
#include "simd/tiles.h"

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

PyObject* amx_status(PyObject*, PyObject*) {
  const std::string status = spae::simd::amx_status();
  return PyUnicode_FromStringAndSize(status.data(), static_cast<Py_ssize_t>(status.size()));
}

// None where no such set has tiles.
PyObject* tiles_agree(PyObject*, PyObject* arguments) {
  const char* name = nullptr;
  if (PyArg_ParseTuple(arguments, "s", &name) == 0) return nullptr;
  const spae::simd::Kernels* set = spae::simd::find(name);
  if (set == nullptr || set->tiles == nullptr) Py_RETURN_NONE;
  const bool portable = set == spae::simd::amx_emulated();
  return PyBool_FromLong(
      agree(*set->tiles, portable ? spae::simd::emulated_tiles() : *spae::simd::emulated_tiles_avx512()));
}

PyObject* lose_tiles(PyObject*, PyObject* arguments) {
  long long after = 0;
  int registers = 0, line = 0, byte = 0;
  if (PyArg_ParseTuple(arguments, "Liii", &after, &registers, &line, &byte) == 0) return nullptr;
  spae::simd::lose_emulated_tiles(after, registers, line, byte);
  Py_RETURN_NONE;
}

// Whether a check of tiles has failed in this process, of the set of that name.
PyObject* tiles_lost(PyObject*, PyObject* arguments) {
  const char* name = nullptr;
  if (PyArg_ParseTuple(arguments, "s", &name) == 0) return nullptr;
  const spae::simd::Kernels* set = spae::simd::find(name);
  return PyBool_FromLong(set != nullptr && set->tiles != nullptr && *set->tiles->lost);
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
    {"amx_status", amx_status, METH_NOARGS, "Whether AMX runs here, and if not why."},
    {"tiles_agree", tiles_agree, METH_VARARGS, "(set): the self-test of its tiles."},
    {"tiles_lost", tiles_lost, METH_VARARGS, "(set): whether a check of its tiles has failed in this process."},
    {"lose_tiles", lose_tiles, METH_VARARGS, "(after, registers, line, byte): for tests, see tiles.h."},
    {nullptr, nullptr, 0, nullptr}};
PyModuleDef_Slot slots[] = {{Py_mod_exec, reinterpret_cast<void*>(fill)}, {0, nullptr}};
PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_C", "Compiled operators of spae_ops.", 0, methods, slots, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() { return PyModuleDef_Init(&definition); }
