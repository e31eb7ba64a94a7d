#pragma once

#include <torch/headeronly/util/Half.h>

using __half = c10::Half;

inline float __half2float(__half value) { return value; }
inline __half __float2half_rn(float value) { return value; }
inline unsigned short __half_as_ushort(__half value) { return value.x; }
