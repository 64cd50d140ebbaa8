// The activations that a GEMM may apply to what it stores; ACTIVATION says which.
//
// Either is x * sigmoid(z): silu with z = x, gelu_tanh with z = 2 sqrt(2/pi) (x + 0.044715 x^3),
// because (1 + tanh(t)) / 2 = sigmoid(2 t). With decay = exp(-|z|), which never overflows,
// sigmoid(z) = (z < 0 ? decay : 1) / (1 + decay): no cancellation, so the error is relative.
#pragma once
#include "ptx.cuh"

#ifndef ACTIVATION
#error "define ACTIVATION: 1 for silu, 2 for gelu_tanh"
#endif

// NaN for a NaN and for minus infinity, as the formula has it.
SVDQ_INLINE float activate(float value) {
  float z = value;
  if constexpr (ACTIVATION == 2) {
    const float square = ptx::multiply(value, value);
    // 2 sqrt(2/pi), and 0.044715 of it.
    z = ptx::multiply(value, ptx::multiply_add(square, 0.071354814f, 1.5957692f));
  }
  const float decay = ptx::exp2(ptx::multiply(ptx::magnitude(z), -1.44269504f));
  const float share = ptx::reciprocal(ptx::add(1.0f, decay));
  return ptx::multiply(ptx::multiply(value, z < 0.0f ? decay : 1.0f), share);
}
