#include "CKernels.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// Functions that pass vectors are all inlined, so how a call would pass them does not matter.
#pragma clang diagnostic ignored "-Wpsabi"

typedef float v4 __attribute__((vector_size(16)));
typedef float v8 __attribute__((vector_size(32)));
typedef float v16 __attribute__((vector_size(64)));
typedef float v16u __attribute__((vector_size(64), aligned(4)));
typedef int32_t i16 __attribute__((vector_size(64)));
typedef uint32_t u16 __attribute__((vector_size(64)));
typedef uint32_t u16u __attribute__((vector_size(64), aligned(4)));
typedef uint16_t h16u __attribute__((vector_size(32), aligned(2)));
typedef uint64_t w8 __attribute__((vector_size(64)));
typedef uint64_t w8u __attribute__((vector_size(64), aligned(4)));

// ln x for x ≥ 1, as Cephes' logf, every multiply-add fused.
static inline float sk_log(float x) {
  if (!(x < __builtin_inff())) return x;
  int exponent;
  uint32_t bits;
  memcpy(&bits, &x, 4);
  exponent = (int)(bits >> 23) - 126;
  bits = (bits & 0x007FFFFFu) | 0x3F000000u;
  float m;
  memcpy(&m, &bits, 4);
  if (m < 0.707106781f) {
    exponent -= 1;
    m = m + m - 1.0f;
  } else {
    m = m - 1.0f;
  }
  float z = m * m;
  float p = 7.0376836292e-2f;
  p = __builtin_fmaf(p, m, -1.1514610310e-1f);
  p = __builtin_fmaf(p, m, 1.1676998740e-1f);
  p = __builtin_fmaf(p, m, -1.2420140846e-1f);
  p = __builtin_fmaf(p, m, 1.4249322787e-1f);
  p = __builtin_fmaf(p, m, -1.6668057665e-1f);
  p = __builtin_fmaf(p, m, 2.0000714765e-1f);
  p = __builtin_fmaf(p, m, -2.4999993993e-1f);
  p = __builtin_fmaf(p, m, 3.3333331174e-1f);
  float e = (float)exponent;
  float y = m * z * p;
  y = __builtin_fmaf(e, -2.12194440e-4f, y);
  y = __builtin_fmaf(z, -0.5f, y);
  return __builtin_fmaf(e, 0.693359375f, m + y);
}

#define JOIN2(a, b) a##b
#define JOIN(a, b) JOIN2(a, b)

#define LEVEL 0
#define LEVEL_NAME "portable"
#define NAME(x) JOIN(x, _portable)
#include "level.h"

#if defined(__x86_64__)
// Sixteen set lanes, then sixteen clear ones: a mask for the first n is read from 16 − n on.
static const int32_t part_mask[32] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};

#pragma clang attribute push(__attribute__((target("arch=x86-64-v3"))), apply_to = function)
#define LEVEL 1
#define LEVEL_NAME "x86-64-v3"
#define NAME(x) JOIN(x, _v3)
#include "level.h"
#pragma clang attribute pop

// Without the least width the compiler would halve the registers of this level.
#pragma clang attribute push(__attribute__((target("arch=x86-64-v4"), min_vector_width(512))), apply_to = function)
#define LEVEL 2
#define LEVEL_NAME "x86-64-v4"
#define NAME(x) JOIN(x, _v4)
#include "level.h"
#pragma clang attribute pop
#endif

const sk_kernels *sk_kernels_at(int level) {
  if (level == 0) return &table_portable;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (level == 1 && __builtin_cpu_supports("x86-64-v3")) return &table_v3;
  if (level == 2 && __builtin_cpu_supports("x86-64-v4")) return &table_v4;
#endif
  return NULL;
}

const sk_kernels *sk_kernels_best(void) {
  for (int level = 2; level > 0; level--) {
    const sk_kernels *kernels = sk_kernels_at(level);
    if (kernels) return kernels;
  }
  return sk_kernels_at(0);
}

void sk_tile_finish(const float *stack, uint64_t tiles, size_t count, float *target, size_t begin, size_t end) {
  for (size_t i = begin; i < end; i++) {
    int lowest = __builtin_ctzll(tiles);
    float sum = stack[(size_t)lowest * count + i];
    for (uint64_t rest = tiles & (tiles - 1); rest; rest &= rest - 1)
      sum = stack[(size_t)__builtin_ctzll(rest) * count + i] + sum;
    target[i] = sum;
  }
}

void sk_tile_push(double *levels, uint64_t tile, double value) {
  int full = __builtin_ctzll(~tile);
  for (int level = 0; level < full; level++) value = levels[level] + value;
  levels[full] = value;
}

double sk_tile_total(const double *levels, uint64_t tiles) {
  double sum = levels[__builtin_ctzll(tiles)];
  for (uint64_t rest = tiles & (tiles - 1); rest; rest &= rest - 1) sum = levels[__builtin_ctzll(rest)] + sum;
  return sum;
}
