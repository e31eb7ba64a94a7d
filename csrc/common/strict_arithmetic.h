// What the definition and the error bounds assume of the compiler: that it rounds every operation, in the order written.
// (Fused multiply-adds are allowed for.) setup.py overrides a user's CFLAGS in this; other builds are stopped here.
#pragma once

#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || \
    (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "spae_ops must be compiled without -ffast-math or parts of it: its answers are proven for IEEE arithmetic"
#endif
