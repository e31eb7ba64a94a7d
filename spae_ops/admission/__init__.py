"""Admission of GPU kernels: "auto" takes one only after a known-answer test on that very device.

The kernels named in `verdicts.ON_TRIAL` rest on what a device does and no document promises: how its matrix
units add, that its barriers hold, that a compiler made of the source what it says. Before "auto" takes one on
a GPU, it is examined there (`examine`): adversarial problems whose answers are compared bit for bit with the
float64 definition evaluated on the CPU, and a probe of the matrix unit. An examination can show that a kernel
is wrong; it never proves one right. The proofs are in the kernels' own modules, and the examination tests
what they assume.

It runs in a process of its own with a time limit (`process`), because a kernel at fault can hang or poison a
context, and when a `CodeIndex` is made or `spae_ops.admit` is called, never in a lookup, in torch.compile's
tracing or in a CUDA graph's capture. Verdicts are kept on disk (`verdicts`).
"""
