// The kernels, once for each instruction set: kernels.c defines LEVEL (0, 1, 2) and NAME(x) and includes this.
//
// A `v16` is sixteen floats whatever the hardware: wider or narrower registers change the speed, not the meaning.

#if LEVEL == 2
#define MICRO_ROWS 14
#define MICRO_VECTORS 2
#define AGGREGATE_VECTORS 16
#elif LEVEL == 1
#define MICRO_ROWS 6
#define MICRO_VECTORS 1
#define AGGREGATE_VECTORS 4
#else
#define MICRO_ROWS 3
#define MICRO_VECTORS 1
#define AGGREGATE_VECTORS 2
#endif

#define CHAIN_ROWS 64
#define INLINE static inline __attribute__((always_inline))

INLINE v16 NAME(load)(const float *p) { return *(const v16u *)p; }
INLINE void NAME(store)(float *p, v16 v) { *(v16u *)p = v; }

// The first n (1...16) of sixteen floats; nothing beyond them is touched, the other lanes read as 0.
#if LEVEL == 2
INLINE v16 NAME(load_part)(const float *p, size_t n) {
  return (v16)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
INLINE void NAME(store_part)(float *p, v16 v, size_t n) {
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
}
#elif LEVEL == 1
INLINE v16 NAME(load_part)(const float *p, size_t n) {
  union { v16 v; __m256 half[2]; } u;
  const __m256i *mask = (const __m256i *)(part_mask + 16 - n);
  u.half[0] = _mm256_maskload_ps(p, _mm256_loadu_si256(mask));
  u.half[1] = _mm256_maskload_ps(p + 8, _mm256_loadu_si256(mask + 1));
  return u.v;
}
INLINE void NAME(store_part)(float *p, v16 v, size_t n) {
  union { v16 v; __m256 half[2]; } u = {v};
  const __m256i *mask = (const __m256i *)(part_mask + 16 - n);
  _mm256_maskstore_ps(p, _mm256_loadu_si256(mask), u.half[0]);
  _mm256_maskstore_ps(p + 8, _mm256_loadu_si256(mask + 1), u.half[1]);
}
#else
INLINE v16 NAME(load_part)(const float *p, size_t n) {
  v16 v = {0};
  memcpy(&v, p, n * sizeof(float));
  return v;
}
INLINE void NAME(store_part)(float *p, v16 v, size_t n) { memcpy(p, &v, n * sizeof(float)); }
#endif

INLINE v16 NAME(load_some)(const float *p, size_t n) { return n == 16 ? NAME(load)(p) : NAME(load_part)(p, n); }
INLINE void NAME(store_some)(float *p, v16 v, size_t n) {
  if (n == 16)
    NAME(store)(p, v);
  else
    NAME(store_part)(p, v, n);
}

INLINE v16 NAME(fma)(v16 a, v16 b, v16 c) { return __builtin_elementwise_fma(a, b, c); }
INLINE v16 NAME(splat)(float x) { return (v16){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
INLINE v16 NAME(choose)(i16 mask, v16 a, v16 b) { return (v16)(((i16)a & mask) | ((i16)b & ~mask)); }

// MARK: Rows that matter

INLINE int NAME(is_active)(sk_active active, size_t row) {
  return !active.marks || (active.marks[row] >> active.bit & 1);
}

// The end of the run of rows from `begin` on that all matter, or all do not.
INLINE size_t NAME(run)(sk_active active, size_t begin, size_t end) {
  if (!active.marks) return end;
  int first = NAME(is_active)(active, begin);
  size_t row = begin + 1;
  while (row < end && NAME(is_active)(active, row) == first) row++;
  return row;
}

INLINE void NAME(clear)(float *matrix, size_t stride, size_t columns, size_t begin, size_t end) {
  for (size_t row = begin; row < end; row++) memset(matrix + row * stride, 0, columns * sizeof(float));
}

// MARK: Exponentials and sums of lanes

// (e^r − 1 − r) / r² for |r| ≤ ln 2 / 2.
INLINE v16 NAME(exp_series)(v16 r) {
  v16 p = NAME(splat)(1.9875691500e-4f);
  p = NAME(fma)(p, r, NAME(splat)(1.3981999507e-3f));
  p = NAME(fma)(p, r, NAME(splat)(8.3334519073e-3f));
  p = NAME(fma)(p, r, NAME(splat)(4.1665795894e-2f));
  p = NAME(fma)(p, r, NAME(splat)(1.6666665459e-1f));
  return NAME(fma)(p, r, NAME(splat)(5.0000001201e-1f));
}

// e^x for x ≤ 0, 0 below −87; within 2 units in the last place (Cody & Waite reduction, Cephes' polynomial).
INLINE v16 NAME(exp)(v16 x) {
  i16 alive = x > -87.0f;
  v16 shifted = NAME(fma)(x, NAME(splat)(1.44269504f), NAME(splat)(12582912.0f));
  v16 n = shifted - 12582912.0f;
  v16 r = NAME(fma)(n, NAME(splat)(-0.693359375f), x);
  r = NAME(fma)(n, NAME(splat)(2.12194440e-4f), r);
  v16 y = NAME(fma)(NAME(exp_series)(r), r * r, r) + 1.0f;
  // 2^n straight into the exponent: the low bits of `shifted` hold n.
  u16 exponent = ((u16)shifted << 23);
  y = (v16)((u16)y + exponent);
  // A number that is not one stays that, so that the loss shows it.
  return NAME(choose)(alive | (x != x), NAME(choose)((i16)(x != x), x, y), (v16){0});
}

// e^x − 1 for x ≤ 0, −1 below −87, without losing what is small.
INLINE v16 NAME(expm1)(v16 x) {
  v16 shifted = NAME(fma)(x, NAME(splat)(1.44269504f), NAME(splat)(12582912.0f));
  v16 n = shifted - 12582912.0f;
  v16 r = NAME(fma)(n, NAME(splat)(-0.693359375f), x);
  r = NAME(fma)(n, NAME(splat)(2.12194440e-4f), r);
  v16 q = NAME(fma)(NAME(exp_series)(r), r * r, r);
  v16 scale = (v16)((u16)NAME(splat)(1.0f) + ((u16)shifted << 23));
  v16 y = NAME(fma)(q, scale, scale - 1.0f);
  i16 alive = x > -87.0f;
  return NAME(choose)(alive | (x != x), y, NAME(splat)(-1.0f));
}

// ln x for 1 ≤ x ≤ 2 in every lane: the series of sk_log.
INLINE v16 NAME(log)(v16 x) {
  i16 upper = x > 1.41421356f;
  v16 m = NAME(choose)(upper, x * 0.5f, x) - 1.0f, e = (v16)((i16)NAME(splat)(1.0f) & upper);
  v16 z = m * m, p = NAME(splat)(7.0376836292e-2f);
  p = NAME(fma)(p, m, NAME(splat)(-1.1514610310e-1f));
  p = NAME(fma)(p, m, NAME(splat)(1.1676998740e-1f));
  p = NAME(fma)(p, m, NAME(splat)(-1.2420140846e-1f));
  p = NAME(fma)(p, m, NAME(splat)(1.4249322787e-1f));
  p = NAME(fma)(p, m, NAME(splat)(-1.6668057665e-1f));
  p = NAME(fma)(p, m, NAME(splat)(2.0000714765e-1f));
  p = NAME(fma)(p, m, NAME(splat)(-2.4999993993e-1f));
  p = NAME(fma)(p, m, NAME(splat)(3.3333331174e-1f));
  v16 y = m * z * p;
  y = NAME(fma)(e, NAME(splat)(-2.12194440e-4f), y);
  y = NAME(fma)(z, NAME(splat)(-0.5f), y);
  return NAME(fma)(e, NAME(splat)(0.693359375f), m + y);
}

// Σ of sixteen lanes in a fixed order: halves onto each other.
INLINE float NAME(lane_sum)(v16 v) {
  v8 a = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) + __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  v4 b = __builtin_shufflevector(a, a, 0, 1, 2, 3) + __builtin_shufflevector(a, a, 4, 5, 6, 7);
  v4 c = b + __builtin_shufflevector(b, b, 2, 3, 2, 3);
  return c[0] + c[1];
}

// Halves onto each other, too.
INLINE float NAME(lane_max)(v16 v) {
  v16 w = __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15);
  v = NAME(choose)((i16)(v < w), w, v);
  w = __builtin_shufflevector(v, v, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7);
  v = NAME(choose)((i16)(v < w), w, v);
  w = __builtin_shufflevector(v, v, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3);
  v = NAME(choose)((i16)(v < w), w, v);
  return v[0] < v[1] ? v[1] : v[0];
}

// MARK: Counter-based random words

// Philox4x32-10 for sixteen counters (first_column + column[i], first_row + row[i], epoch, stream): 64 words in the
// order of the counters.
//
// Each 32-bit word lives in the low half of a 64-bit lane, where the multiplier reads it; the high halves hold
// whatever is left over until the end.
INLINE void NAME(philox16)(const uint64_t column[16], uint32_t first_column, const uint64_t row[16],
                           uint32_t first_row, uint32_t epoch, uint32_t stream, uint64_t seed, uint32_t *out) {
  const w8 low = (w8){0} + 0xFFFFFFFFu;
#pragma clang loop unroll(full)
  for (int half = 0; half < 2; half++) {
    w8 c0 = *(const w8u *)(column + 8 * half) + first_column, c1 = *(const w8u *)(row + 8 * half) + first_row;
    w8 c2 = (w8){0} + epoch, c3 = (w8){0} + stream;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
#pragma clang loop unroll(full)
    for (int round = 0; round < 10; round++) {
      w8 p0 = (c0 & low) * 0xD2511F53u, p2 = (c2 & low) * 0xCD9E8D57u;
      c0 = (p2 >> 32) ^ c1 ^ k0;
      c1 = p2;
      c2 = (p0 >> 32) ^ c3 ^ k1;
      c3 = p0;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    w8 first = (c0 & low) | (c1 << 32), second = (c2 & low) | (c3 << 32);
    *(w8u *)(out + 32 * half) = __builtin_shufflevector(first, second, 0, 8, 1, 9, 2, 10, 3, 11);
    *(w8u *)(out + 32 * half + 16) = __builtin_shufflevector(first, second, 4, 12, 5, 13, 6, 14, 7, 15);
  }
}

// MARK: Row-local chains

// Kills what the half words say, scales the rest.
INLINE void NAME(drop)(float *x, const uint16_t *halves, size_t count, uint16_t threshold, float scale) {
  size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    i16 keep = __builtin_convertvector(*(const h16u *)(halves + i) >= threshold, i16);
    NAME(store)(x + i, (v16)((i16)(NAME(load)(x + i) * scale) & keep));
  }
  for (; i < count; i++) x[i] = halves[i] >= threshold ? x[i] * scale : 0.0f;
}

enum {
  NAME(DROPOUT_ROWS) = 16,
  NAME(DROPOUT_COLUMNS) = 64,
  NAME(DROPOUT_COUNTERS) = NAME(DROPOUT_ROWS) * NAME(DROPOUT_COLUMNS) / 8,
};

// Counters of DROPOUT_ROWS rows of a piece, `each` (up to DROPOUT_COLUMNS / 8) in a row, back to back.
typedef struct {
  size_t each;
  uint64_t column[NAME(DROPOUT_COUNTERS)];
  uint64_t row[NAME(DROPOUT_COUNTERS)];
} NAME(counters);

static void NAME(lay_out)(NAME(counters) *counters, size_t each) {
  if (counters->each == each) return;
  counters->each = each;
  for (size_t i = 0, row = 0; row < NAME(DROPOUT_ROWS); row++)
    for (size_t column = 0; column < each; column++, i++) {
      counters->column[i] = column;
      counters->row[i] = row;
    }
}

// Rows [begin, end): up to DROPOUT_COLUMNS columns of up to DROPOUT_ROWS rows at a time, so that narrow rows share
// the sixteen lanes of the generator.
static void NAME(dropout)(float *matrix, size_t stride, size_t columns, const sk_step *step, const sk_chain *chain,
                          size_t begin, size_t end) {
  // The lower half of a word comes first, as this byte order has it.
  union {
    uint32_t words[NAME(DROPOUT_COUNTERS) * 4];
    uint16_t halves[NAME(DROPOUT_COUNTERS) * 8];
  } random;
  // Full pieces, and the last one of a row.
  NAME(counters) layouts[2];
  layouts[0].each = layouts[1].each = 0;
  for (size_t first = begin; first < end; first += NAME(DROPOUT_ROWS)) {
    size_t rows = end - first < NAME(DROPOUT_ROWS) ? end - first : NAME(DROPOUT_ROWS);
    for (size_t column = 0; column < columns;) {
      size_t element = step->first_column + column;
      // Pieces after the first start on a counter, so every full one has DROPOUT_COLUMNS / 8 of them.
      size_t skip = element % 8, left = columns - column, full = NAME(DROPOUT_COLUMNS) - skip;
      size_t width = left < full ? left : full;
      NAME(counters) *layout = layouts + (left < full);
      NAME(lay_out)(layout, (skip + width + 7) / 8);
      const size_t counters = rows * layout->each;
      for (size_t done = 0; done < counters; done += 16)
        NAME(philox16)(layout->column + done, (uint32_t)(element / 8), layout->row + done,
                       chain->first_row + (uint32_t)first, chain->epoch, step->stream, chain->seed,
                       random.words + 4 * done);
      for (size_t r = 0; r < rows; r++)
        NAME(drop)(matrix + (first + r) * stride + column, random.halves + 8 * layout->each * r + skip, width,
                   (uint16_t)step->threshold, step->constant);
      column += width;
    }
  }
}

// One step on one row; `kind` is a constant after inlining. Operands come from `other`, or are all `same`, or both.
INLINE void NAME(step_row)(int kind, float *x, const float *other, float same, size_t columns) {
  for (size_t column = 0; column < columns; column += 16) {
    size_t n = columns - column < 16 ? columns - column : 16;
    v16 v = n == 16 ? NAME(load)(x + column) : NAME(load_part)(x + column, n);
    v16 o = NAME(splat)(same);
    if (other) o = NAME(load_some)(other + column, n);
    switch (kind) {
      case SK_STEP_ADD: v = v + o; break;
      case SK_STEP_SCALE: v = v * o; break;
      // What is no number stays that, so that the loss shows it.
      case SK_STEP_RELU: v = (v16)((i16)v & ~(i16)(v <= 0.0f)); break;
      case SK_STEP_RELU_GRADIENT: v = (v16)((i16)v & ~(i16)(o <= 0.0f)); break;
      case SK_STEP_ELU: v = NAME(choose)((i16)(v > 0.0f), v, NAME(expm1)(v)); break;
      case SK_STEP_ELU_GRADIENT: v = NAME(choose)((i16)(o <= 0.0f), v * (o + 1.0f), v); break;
      case SK_STEP_ADD_HEADS: v = NAME(fma)(NAME(splat)(same), o, v); break;
    }
    if (n == 16)
      NAME(store)(x + column, v);
    else
      NAME(store_part)(x + column, v, n);
  }
}

// The first n lanes of sixteen; 0 in the others.
INLINE v16 NAME(first_lanes)(v16 v, size_t n) {
  const i16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return n == 16 ? v : (v16)((i16)v & (i16)(lane < (int32_t)n));
}

// Mean of a row and the inverse of its deviation.
static void NAME(moments)(const float *x, size_t columns, float epsilon, float *mean, float *inverse) {
  v16 sum = {0}, squares = {0};
  for (size_t column = 0; column < columns; column += 16)
    sum += NAME(load_some)(x + column, columns - column < 16 ? columns - column : 16);
  *mean = NAME(lane_sum)(sum) / (float)columns;
  for (size_t column = 0; column < columns; column += 16) {
    size_t n = columns - column < 16 ? columns - column : 16;
    v16 d = NAME(first_lanes)(NAME(load_some)(x + column, n) - *mean, n);
    squares = NAME(fma)(d, d, squares);
  }
  *inverse = 1.0f / __builtin_sqrtf(NAME(lane_sum)(squares) / (float)columns + epsilon);
}

static void NAME(normalise_row)(float *x, size_t columns, float epsilon) {
  float mean, inverse;
  NAME(moments)(x, columns, epsilon, &mean, &inverse);
  for (size_t column = 0; column < columns; column += 16) {
    size_t n = columns - column < 16 ? columns - column : 16;
    NAME(store_some)(x + column, (NAME(load_some)(x + column, n) - mean) * inverse, n);
  }
}

static void NAME(normalise_gradient_row)(float *g, const float *x, size_t columns, float epsilon) {
  float mean, inverse;
  NAME(moments)(x, columns, epsilon, &mean, &inverse);
  v16 sum = {0}, along = {0};
  for (size_t column = 0; column < columns; column += 16) {
    size_t n = columns - column < 16 ? columns - column : 16;
    v16 v = NAME(load_some)(g + column, n);
    sum += v;
    // Where a row ends, v is 0.
    along = NAME(fma)(v, NAME(first_lanes)((NAME(load_some)(x + column, n) - mean) * inverse, n), along);
  }
  float shift = NAME(lane_sum)(sum) / (float)columns, slope = NAME(lane_sum)(along) / (float)columns;
  for (size_t column = 0; column < columns; column += 16) {
    size_t n = columns - column < 16 ? columns - column : 16;
    v16 normal = (NAME(load_some)(x + column, n) - mean) * inverse;
    v16 v = NAME(load_some)(g + column, n) - shift;
    NAME(store_some)(g + column, NAME(fma)(normal, NAME(splat)(-slope), v) * inverse, n);
  }
}

// Rows [begin, end) of x [.., columns], in place.
static void NAME(apply)(const sk_chain *chain, float *matrix, size_t stride, size_t columns, size_t begin, size_t end) {
  for (size_t index = 0; index < chain->count; index++) {
    const sk_step *step = chain->steps + index;
    if (step->kind == SK_STEP_DROPOUT) {
      NAME(dropout)(matrix, stride, columns, step, chain, begin, end);
      continue;
    }
    for (size_t row = begin; row < end; row++) {
      float *x = matrix + row * stride;
      const float *values = step->values;
      switch (step->kind) {
        case SK_STEP_BIAS: NAME(step_row)(SK_STEP_ADD, x, values, 0, columns); break;
        case SK_STEP_ADD: NAME(step_row)(SK_STEP_ADD, x, values + row * step->stride, 0, columns); break;
        case SK_STEP_SCALE_ROWS: NAME(step_row)(SK_STEP_SCALE, x, NULL, values[row], columns); break;
        case SK_STEP_SCALE: NAME(step_row)(SK_STEP_SCALE, x, NULL, step->constant, columns); break;
        case SK_STEP_RELU: NAME(step_row)(SK_STEP_RELU, x, NULL, 0, columns); break;
        case SK_STEP_RELU_GRADIENT:
          NAME(step_row)(SK_STEP_RELU_GRADIENT, x, values + row * step->stride, 0, columns);
          break;
        case SK_STEP_SCALE_COLUMNS: NAME(step_row)(SK_STEP_SCALE, x, values, 0, columns); break;
        case SK_STEP_ELU: NAME(step_row)(SK_STEP_ELU, x, NULL, 0, columns); break;
        case SK_STEP_ELU_GRADIENT:
          NAME(step_row)(SK_STEP_ELU_GRADIENT, x, values + row * step->stride, 0, columns);
          break;
        case SK_STEP_NORMALISE: NAME(normalise_row)(x, columns, step->constant); break;
        case SK_STEP_NORMALISE_GRADIENT:
          NAME(normalise_gradient_row)(x, values + row * step->stride, columns, step->constant);
          break;
        case SK_STEP_ADD_HEADS:
          for (size_t head = 0, width = columns / step->heads; head < step->heads; head++)
            NAME(step_row)(SK_STEP_ADD_HEADS, x + head * width, step->vector + head * width,
                           values[row * step->stride + head], width);
          break;
      }
    }
  }
}

// Rows whose chain is applied while they are still in the first cache.
INLINE size_t NAME(block_rows)(size_t columns) {
  size_t rows = 4096 / (columns + 1) + 1;
  return rows < 64 ? rows : 64;
}

static void NAME(map)(const sk_map *m, size_t begin, size_t end) {
  size_t block = NAME(block_rows)(m->columns);
  for (size_t row = begin, stop; row < end; row = stop) {
    stop = NAME(run)(m->active, row, row + block < end ? row + block : end);
    if (!NAME(is_active)(m->active, row)) {
      NAME(clear)(m->target, m->target_stride, m->columns, row, stop);
      continue;
    }
    if (m->source != m->target || m->source_stride != m->target_stride)
      for (size_t r = row; r < stop; r++)
        memcpy(m->target + r * m->target_stride, m->source + r * m->source_stride, m->columns * sizeof(float));
    NAME(apply)(&m->chain, m->target, m->target_stride, m->columns, row, stop);
  }
}

// MARK: Sums over neighbours

static int NAME(topology_valid)(const uint64_t *pointers, const uint32_t *neighbours, uint64_t edge_base,
                                uint64_t edges, uint64_t nodes, size_t begin, size_t end) {
  for (size_t row = begin; row < end; row++) {
    uint64_t from = pointers[row], to = pointers[row + 1];
    if (from < edge_base || to < from || to - edge_base > edges) return 0;
    if (from == to) continue;
    const uint32_t *list = neighbours + (from - edge_base);
    size_t count = to - from;
    uint32_t disordered = 0;
    for (size_t i = 1; i < count; i++) disordered |= (uint32_t)(list[i - 1] >= list[i]);
    if (disordered || list[count - 1] >= nodes) return 0;
  }
  return 1;
}

// The first position in an ascending list whose neighbour is at least `least`.
INLINE size_t NAME(lower_bound)(const uint32_t *list, size_t count, uint64_t least) {
  size_t low = 0;
  while (count > 0) {
    size_t half = count / 2;
    if (list[low + half] < least) {
      low += half + 1;
      count -= half + 1;
    } else {
      count = half;
    }
  }
  return low;
}

// `vectors` vectors of one row, the last of them `last` wide (16 unless `part`). Both constants after inlining. The
// list goes on beyond its `count` to `known` neighbours of the next rows, which will be wanted soon.
INLINE void NAME(aggregate_row)(const sk_aggregate *g, const uint32_t *list, size_t count, size_t known,
                                float *target, const float *source, int vectors, int part, size_t last) {
  v16 sum[AGGREGATE_VECTORS];
  if (g->accumulates) {
    for (int i = 0; i < vectors; i++)
      sum[i] = part && i == vectors - 1 ? NAME(load_part)(target + 16 * i, last) : NAME(load)(target + 16 * i);
  } else {
    for (int i = 0; i < vectors; i++) sum[i] = (v16){0};
  }
  const size_t stride = g->source_stride;
  // Far enough ahead to cover a miss, near enough to stay in the first cache.
  const size_t ahead = vectors >= 8 ? 4 : vectors >= 4 ? 8 : 16;
  for (size_t e = 0; e < count; e++) {
    const float *row = source + (size_t)(list[e] - g->source_first) * stride;
    if (e + ahead < known) {
      const float *later = source + (size_t)(list[e + ahead] - g->source_first) * stride;
      for (int i = 0; i < vectors; i++) __builtin_prefetch(later + 16 * i);
    }
    for (int i = 0; i < vectors; i++)
      sum[i] += part && i == vectors - 1 ? NAME(load_part)(row + 16 * i, last) : NAME(load)(row + 16 * i);
  }
  for (int i = 0; i < vectors; i++) {
    if (part && i == vectors - 1)
      NAME(store_part)(target + 16 * i, sum[i], last);
    else
      NAME(store)(target + 16 * i, sum[i]);
  }
}

static void NAME(aggregate)(const sk_aggregate *g, size_t begin, size_t end) {
  size_t block = NAME(block_rows)(g->width);
  for (size_t first = begin, stop; first < end; first = stop) {
    stop = NAME(run)(g->active, first, first + block < end ? first + block : end);
    if (!NAME(is_active)(g->active, first)) {
      if (!g->accumulates) NAME(clear)(g->target, g->target_stride, g->width, first, stop);
      continue;
    }
    for (size_t r = first; r < stop; r++) {
      const uint32_t *list = g->neighbours + (g->pointers[r] - g->edge_base);
      size_t count = g->pointers[r + 1] - g->pointers[r], known = g->pointers[end] - g->pointers[r];
      if (!g->covers_all) {
        size_t low = NAME(lower_bound)(list, count, g->source_first);
        count = low + NAME(lower_bound)(list + low, count - low, (uint64_t)g->source_first + g->source_rows);
        list += low;
        known = count -= low;
        if (count == 0 && g->accumulates) continue;
      }
      float *target = g->target + r * g->target_stride;
      for (size_t column = 0; column < g->width;) {
        size_t left = g->width - column;
        size_t vectors = (left + 15) / 16;
        const float *source = g->source + column;
#define CASE(n)                                                                                            \
  case n:                                                                                                  \
    if (left >= 16 * n) {                                                                                  \
      NAME(aggregate_row)(g, list, count, known, target + column, source, n, 0, 16);                              \
    } else {                                                                                               \
      NAME(aggregate_row)(g, list, count, known, target + column, source, n, 1, left - 16 * (n - 1));             \
    }                                                                                                      \
    column += 16 * n;                                                                                      \
    break;
#if AGGREGATE_VECTORS == 16
        switch (vectors >= 16 ? 16 : vectors >= 8 ? 8 : vectors) {
          CASE(16) CASE(8) CASE(7) CASE(6) CASE(5) CASE(4) CASE(3) CASE(2) CASE(1)
        }
#elif AGGREGATE_VECTORS == 4
        switch (vectors >= 4 ? 4 : vectors) { CASE(4) CASE(3) CASE(2) CASE(1) }
#else
        switch (vectors >= 2 ? 2 : vectors) { CASE(2) CASE(1) }
#endif
#undef CASE
      }
    }
    NAME(apply)(&g->chain, g->target, g->target_stride, g->width, first, stop);
  }
}

// MARK: Attention over neighbours

// Edges whose weights are computed at once, a multiple of sixteen.
enum { NAME(EDGES) = 64, NAME(HEADS_MAX) = 64 };

// Numbers of a few edges, [EDGES, padded heads] each, and one vector more where the last edge's heads end.
typedef struct {
  size_t padded;  // 1, 2, 4, 8 or a multiple of 16
  float *weight;  // after dropout
  float *plain;   // before
  float *leak;    // derivative of the score by its sum: 1 or the slope
  float *part;    // of the score's gradient, then the weight times the derivative
} NAME(edges);

enum { NAME(EDGE_FLOATS) = NAME(EDGES) * NAME(HEADS_MAX) + 16 };

INLINE NAME(edges) NAME(edges_in)(const sk_attention *g, float *scratch) {
  size_t padded = 1;
  while (padded < g->heads && padded < 16) padded *= 2;
  if (g->heads > 16) padded = (g->heads + 15) / 16 * 16;
  // Padding is read, though never used.
  memset(scratch, 0, 4 * NAME(EDGE_FLOATS) * sizeof(float));
  return (NAME(edges)){padded, scratch, scratch + NAME(EDGE_FLOATS), scratch + 2 * NAME(EDGE_FLOATS),
                       scratch + 3 * NAME(EDGE_FLOATS)};
}

// The numbers of one end for each of `count` edges: out[edge, head].
INLINE void NAME(gather_heads)(sk_rows from, const uint32_t *list, size_t count, uint32_t first, size_t heads,
                               size_t padded, float *out) {
  const float *base = from.values - (size_t)first * from.stride;
  // The usual numbers of heads as constants: a move each, not a loop.
#define CASE(n)                                                                                           \
  case n:                                                                                                 \
    for (size_t e = 0; e < count; e++) memcpy(out + e * n, base + (size_t)list[e] * from.stride, n * sizeof(float)); \
    return;
  switch (heads) { CASE(1) CASE(2) CASE(4) CASE(8) CASE(16) }
#undef CASE
  for (size_t e = 0; e < count; e++) memcpy(out + e * padded, base + (size_t)list[e] * from.stride, heads * sizeof(float));
}

// One node's numbers, as often as edges share a vector: [16] or [padded].
INLINE void NAME(repeat_heads)(const float *values, size_t heads, size_t padded, float *out) {
  size_t width = padded < 16 ? 16 : padded;
  for (size_t i = 0; i < width; i++) out[i] = i % padded < heads ? values[i % padded] : 0.0f;
}

// Which weights live: out[edge, head] becomes 1 / (1 − p) or 0 times what it was.
static void NAME(drop_edges)(const sk_attention *g, size_t row, const uint32_t *list, size_t count, size_t padded,
                             float *weights) {
  uint64_t others[16], same[16] = {0};
  uint32_t words[64], graph_row = g->first_row + (uint32_t)row;
  for (size_t e = 0; e < count; e += 16) {
    size_t edges = count - e < 16 ? count - e : 16;
    for (size_t i = 0; i < 16; i++) others[i] = list[e + (i < edges ? i : 0)];
    for (size_t h = 0; h < g->heads;) {
      uint32_t head = g->first_head + (uint32_t)h;
      size_t some = 4 - head % 4 < g->heads - h ? 4 - head % 4 : g->heads - h;
      uint32_t stream = g->stream + ((1 + head / 4) << 24);
      if (g->rows_are_targets)
        NAME(philox16)(others, 0, same, graph_row, g->chain.epoch, stream, g->chain.seed, words);
      else
        NAME(philox16)(same, graph_row, others, 0, g->chain.epoch, stream, g->chain.seed, words);
      if (padded == 4 && some == 4) {
        // Words lie as weights do, four edges to a vector; what is beyond the last edge nobody reads.
        for (size_t i = 0; i < edges; i += 4) {
          float *w = weights + (e + i) * 4;
          i16 keep = (i16)(*(const u16u *)(words + 4 * i) >= g->threshold);
          NAME(store)(w, (v16)((i16)(NAME(load)(w) * g->keep) & keep));
        }
        h += some;
        continue;
      }
      for (size_t i = 0; i < edges; i++)
        for (size_t k = 0; k < some; k++) {
          float *w = weights + (e + i) * padded + h + k;
          *w = words[4 * i + head % 4 + k] >= g->threshold ? *w * g->keep : 0.0f;
        }
      h += some;
    }
  }
}

// The row's own numbers, repeated.
typedef struct {
  float scores[NAME(HEADS_MAX)], highest[NAME(HEADS_MAX)], inverse[NAME(HEADS_MAX)], dots[NAME(HEADS_MAX)];
} NAME(own);

INLINE void NAME(own_numbers)(const sk_attention *g, size_t row, size_t padded, NAME(own) *own) {
  sk_rows scores = g->rows_are_targets ? g->target_scores : g->source_scores;
  NAME(repeat_heads)(scores.values + row * scores.stride, g->heads, padded, own->scores);
  if (!g->rows_are_targets) return;
  NAME(repeat_heads)(g->highest.values + row * g->highest.stride, g->heads, padded, own->highest);
  NAME(repeat_heads)(g->inverse.values + row * g->inverse.stride, g->heads, padded, own->inverse);
  if (g->dots.values) NAME(repeat_heads)(g->dots.values + row * g->dots.stride, g->heads, padded, own->dots);
}

INLINE v16 NAME(leaky)(v16 x, float slope) { return NAME(choose)((i16)(x > 0.0f), x, x * slope); }

// The weights of up to EDGES edges of one row; with `differentiates` also what their gradient needs.
INLINE void NAME(edge_weights)(const sk_attention *g, size_t row, const uint32_t *list, size_t count,
                               const NAME(own) *own, const NAME(edges) *edges, int differentiates) {
  const size_t padded = edges->padded, lanes = count * padded;
  float *weight = edges->weight, *plain = edges->plain;
  if (g->rows_are_targets) {
    NAME(gather_heads)(g->source_scores, list, count, g->other_first, g->heads, padded, weight);
    for (size_t i = 0; i < lanes; i += 16) {
      size_t k = padded <= 16 ? 0 : i % padded;
      v16 x = NAME(load)(own->scores + k) + NAME(load)(weight + i);
      v16 e = NAME(exp)(NAME(leaky)(x, g->slope) - NAME(load)(own->highest + k)) * NAME(load)(own->inverse + k);
      NAME(store)(weight + i, e);
      if (differentiates)
        NAME(store)(edges->leak + i, NAME(choose)((i16)(x > 0.0f), NAME(splat)(1.0f), NAME(splat)(g->slope)));
    }
  } else {
    NAME(gather_heads)(g->target_scores, list, count, g->other_first, g->heads, padded, weight);
    NAME(gather_heads)(g->highest, list, count, g->other_first, g->heads, padded, plain);
    NAME(gather_heads)(g->inverse, list, count, g->other_first, g->heads, padded, edges->leak);
    for (size_t i = 0; i < lanes; i += 16) {
      size_t k = padded <= 16 ? 0 : i % padded;
      v16 x = NAME(load)(weight + i) + NAME(load)(own->scores + k);
      v16 e = NAME(exp)(NAME(leaky)(x, g->slope) - NAME(load)(plain + i)) * NAME(load)(edges->leak + i);
      NAME(store)(weight + i, e);
      NAME(store)(edges->leak + i, NAME(choose)((i16)(x > 0.0f), NAME(splat)(1.0f), NAME(splat)(g->slope)));
    }
  }
  if (differentiates) memcpy(plain, weight, lanes * sizeof(float));
  if (g->drops) NAME(drop_edges)(g, row, list, count, padded, weight);
}

// Adds the edges' numbers to `sum` [padded], one after the other.
INLINE void NAME(sum_edges)(const float *numbers, size_t count, size_t padded, float *sum) {
  for (size_t k = 0; k < padded; k += 16) {
    v16 s = NAME(load)(sum + k);
    // With fewer than sixteen heads the upper lanes add what belongs to later edges; nobody reads them.
    for (size_t e = 0; e < count; e++) s += NAME(load)(numbers + e * padded + k);
    NAME(store)(sum + k, s);
  }
}

// The neighbours of a row that lie at the other end.
INLINE const uint32_t *NAME(neighbours_at)(const sk_attention *g, size_t row, size_t *count) {
  const uint32_t *list = g->neighbours + (g->pointers[row] - g->edge_base);
  size_t all = g->pointers[row + 1] - g->pointers[row];
  if (g->covers_all) {
    *count = all;
    return list;
  }
  size_t low = NAME(lower_bound)(list, all, g->other_first);
  *count = NAME(lower_bound)(list + low, all - low, (uint64_t)g->other_first + g->other_rows);
  return list + low;
}

static void NAME(attention_scale)(const sk_attention *g, size_t begin, size_t end, float *scratch) {
  const NAME(edges) edges = NAME(edges_in)(g, scratch);
  const size_t padded = edges.padded, wide = padded < 16 ? 16 : padded;
  for (size_t row = begin; row < end; row++) {
    if (!NAME(is_active)(g->active, row)) {
      memset(g->highest.values + row * g->highest.stride, 0, g->heads * sizeof(float));
      memset(g->inverse.values + row * g->inverse.stride, 0, g->heads * sizeof(float));
      continue;
    }
    size_t count;
    const uint32_t *list = NAME(neighbours_at)(g, row, &count);
    float own[NAME(HEADS_MAX)], highest[NAME(HEADS_MAX)], sum[NAME(HEADS_MAX)];
    NAME(repeat_heads)(g->target_scores.values + row * g->target_scores.stride, g->heads, padded, own);
    for (size_t k = 0; k < wide; k += 16) {
      NAME(store)(highest + k, NAME(splat)(-__builtin_inff()));
      NAME(store)(sum + k, (v16){0});
    }
    for (size_t e = 0; e < count; e += NAME(EDGES)) {
      size_t some = count - e < NAME(EDGES) ? count - e : NAME(EDGES);
      NAME(gather_heads)(g->source_scores, list + e, some, g->other_first, g->heads, padded, edges.weight);
      // Which of several edges in a vector is the highest does not depend on their order.
      for (size_t i = some * padded; i % 16; i++) edges.weight[i] = -__builtin_inff();
      for (size_t i = 0; i < some * padded; i += 16) {
        size_t k = padded <= 16 ? 0 : i % padded;
        v16 x = NAME(leaky)(NAME(load)(own + k) + NAME(load)(edges.weight + i), g->slope), h = NAME(load)(highest + k);
        NAME(store)(highest + k, NAME(choose)((i16)(x > h), x, h));
      }
    }
    for (size_t lanes = 8; lanes >= padded; lanes /= 2)
      for (size_t i = 0; i < lanes; i++)
        highest[i] = highest[i] < highest[i + lanes] ? highest[i + lanes] : highest[i];
    NAME(repeat_heads)(highest, g->heads, padded, highest);
    for (size_t e = 0; e < count; e += NAME(EDGES)) {
      size_t some = count - e < NAME(EDGES) ? count - e : NAME(EDGES);
      if (count > NAME(EDGES))
        NAME(gather_heads)(g->source_scores, list + e, some, g->other_first, g->heads, padded, edges.weight);
      for (size_t i = 0; i < some * padded; i += 16) {
        size_t k = padded <= 16 ? 0 : i % padded;
        v16 x = NAME(leaky)(NAME(load)(own + k) + NAME(load)(edges.weight + i), g->slope);
        NAME(store)(edges.weight + i, NAME(exp)(x - NAME(load)(highest + k)));
      }
      NAME(sum_edges)(edges.weight, some, padded, sum);
    }
    for (size_t h = 0; h < g->heads; h++) {
      g->highest.values[row * g->highest.stride + h] = count ? highest[h] : 0.0f;
      g->inverse.values[row * g->inverse.stride + h] = count ? 1.0f / sum[h] : 0.0f;
    }
  }
}

// Which head each column of a vector belongs to: all one, or each its own.
typedef struct {
  int is_mixed;
  uint32_t first;
  int32_t after[16];  // heads after the first, lane by lane
} NAME(vector_heads);

INLINE NAME(vector_heads) NAME(heads_of)(size_t column, size_t width, size_t head_width) {
  NAME(vector_heads) heads;
  heads.first = (uint32_t)(column / head_width);
  for (size_t i = 0; i < 16; i++) {
    size_t at = column + i < width ? column + i : width - 1;
    heads.after[i] = (int32_t)(at / head_width - heads.first);
  }
  heads.is_mixed = heads.after[15] != 0;
  return heads;
}

// The weight of each column of a vector, from an edge's weights by head.
INLINE v16 NAME(spread)(const float *weights, const NAME(vector_heads) *heads, int mixed) {
  if (!mixed) return NAME(splat)(weights[heads->first]);
#if LEVEL == 2
  return (v16)_mm512_permutexvar_ps(_mm512_loadu_si512(heads->after), _mm512_loadu_ps(weights + heads->first));
#else
  v16 v;
  for (int i = 0; i < 16; i++) v[i] = weights[heads->first + (size_t)heads->after[i]];
  return v;
#endif
}

// target += Σ weight · row of `from`, `vectors` vectors of it, the last of them `last` wide. `vectors`, `part` and
// `mixed` are constants after inlining; `known` as in aggregate_row.
INLINE void NAME(attend_row)(const float *from, size_t stride, uint32_t first, const uint32_t *list, size_t count,
                             size_t known, const float *weights, size_t padded, const NAME(vector_heads) *heads,
                             float *target, int vectors, int part, size_t last, int mixed) {
  v16 sum[AGGREGATE_VECTORS];
  for (int i = 0; i < vectors; i++) sum[i] = NAME(load_some)(target + 16 * i, part && i == vectors - 1 ? last : 16);
  const size_t ahead = vectors >= 8 ? 4 : vectors >= 4 ? 8 : 16;
  for (size_t e = 0; e < count; e++) {
    const float *row = from + (size_t)(list[e] - first) * stride;
    if (e + ahead < known) {
      const float *later = from + (size_t)(list[e + ahead] - first) * stride;
      for (int i = 0; i < vectors; i++) __builtin_prefetch(later + 16 * i);
    }
    for (int i = 0; i < vectors; i++) {
      v16 x = NAME(load_some)(row + 16 * i, part && i == vectors - 1 ? last : 16);
      sum[i] = NAME(fma)(NAME(spread)(weights + e * padded, heads + i, mixed), x, sum[i]);
    }
  }
  for (int i = 0; i < vectors; i++) NAME(store_some)(target + 16 * i, sum[i], part && i == vectors - 1 ? last : 16);
}

// All columns of it.
INLINE void NAME(attend_edges)(const sk_attention *g, sk_rows from, const uint32_t *list, size_t count, size_t known,
                               const float *weights, size_t padded, const NAME(vector_heads) *heads, int mixed,
                               float *target) {
  const size_t width = g->heads * g->head_width;
  for (size_t column = 0; column < width;) {
    size_t left = width - column, vectors = (left + 15) / 16;
#define CALL(n, part, last, mixed)                                                                              \
  NAME(attend_row)(from.values + column, from.stride, g->other_first, list, count, known, weights, padded, heads + column / 16, \
                   target + column, n, part, last, mixed)
#define CASE(n)                                       \
  case n:                                             \
    if (mixed) {                                      \
      size_t last = left >= 16 * n ? 16 : left - 16 * (n - 1); \
      CALL(n, 1, last, 1);                            \
    } else if (left >= 16 * n) {                      \
      CALL(n, 0, 16, 0);                              \
    } else {                                          \
      CALL(n, 1, left - 16 * (n - 1), 0);             \
    }                                                 \
    column += 16 * n;                                 \
    break;
#if AGGREGATE_VECTORS == 16
    switch (vectors >= 16 ? 16 : vectors >= 8 ? 8 : vectors) {
      CASE(16) CASE(8) CASE(7) CASE(6) CASE(5) CASE(4) CASE(3) CASE(2) CASE(1)
    }
#elif AGGREGATE_VECTORS == 4
    switch (vectors >= 4 ? 4 : vectors) { CASE(4) CASE(3) CASE(2) CASE(1) }
#else
    switch (vectors >= 2 ? 2 : vectors) { CASE(2) CASE(1) }
#endif
#undef CASE
#undef CALL
  }
}

// Heads of every vector of a row; they lie in the scratch behind the edges' numbers. Says whether any is mixed.
INLINE int NAME(lay_heads)(const sk_attention *g, float *scratch, NAME(vector_heads) **heads) {
  const size_t width = g->heads * g->head_width;
  *heads = (NAME(vector_heads) *)(scratch + 4 * NAME(EDGE_FLOATS));
  int mixed = 0;
  for (size_t column = 0; column < width; column += 16) {
    (*heads)[column / 16] = NAME(heads_of)(column, width, g->head_width);
    mixed |= (*heads)[column / 16].is_mixed;
  }
  return mixed;
}

static void NAME(attend)(const sk_attention *g, size_t begin, size_t end, float *scratch) {
  const NAME(edges) edges = NAME(edges_in)(g, scratch);
  NAME(vector_heads) * heads;
  const int mixed = NAME(lay_heads)(g, scratch, &heads);
  const size_t width = g->heads * g->head_width, block = NAME(block_rows)(width);
  for (size_t first = begin, stop; first < end; first = stop) {
    stop = NAME(run)(g->active, first, first + block < end ? first + block : end);
    if (!NAME(is_active)(g->active, first)) {
      if (!g->accumulates) NAME(clear)(g->target.values, g->target.stride, width, first, stop);
      continue;
    }
    for (size_t row = first; row < stop; row++) {
      float *target = g->target.values + row * g->target.stride;
      if (!g->accumulates) memset(target, 0, width * sizeof(float));
      size_t count;
      const uint32_t *list = NAME(neighbours_at)(g, row, &count);
      if (count == 0) continue;
      const size_t known = g->covers_all ? g->pointers[end] - g->pointers[row] : count;
      NAME(own) own;
      NAME(own_numbers)(g, row, edges.padded, &own);
      for (size_t e = 0; e < count; e += NAME(EDGES)) {
        size_t some = count - e < NAME(EDGES) ? count - e : NAME(EDGES);
        NAME(edge_weights)(g, row, list + e, some, &own, &edges, 0);
        NAME(attend_edges)(g, g->source, list + e, some, known - e, edges.weight, edges.padded, heads, mixed, target);
      }
    }
    NAME(apply)(&g->chain, g->target.values, g->target.stride, width, first, stop);
  }
}

// Σ x · y over one head.
INLINE float NAME(dot)(const float *x, const float *y, size_t width) {
  v16 sum = {0};
  for (size_t k = 0; k < width; k += 16) {
    size_t n = width - k < 16 ? width - k : 16;
    sum = NAME(fma)(NAME(load_some)(x + k, n), NAME(load_some)(y + k, n), sum);
  }
  return NAME(lane_sum)(sum);
}

static void NAME(attention_gradient)(const sk_attention *g, size_t begin, size_t end, float *scratch) {
  const NAME(edges) edges = NAME(edges_in)(g, scratch);
  NAME(vector_heads) * heads;
  const int mixed = NAME(lay_heads)(g, scratch, &heads);
  const size_t width = g->heads * g->head_width, padded = edges.padded;
  // Rows of the other end are read twice where both sums are wanted, so a few of them at a time, that the first cache
  // can hold.
  const size_t least = 8192 / (width + 1) / 16 * 16;
  const int both = g->target.values && g->leaked.values;
  const size_t block = !both || least > NAME(EDGES) ? NAME(EDGES) : least < 16 ? 16 : least;
  float *theirs = scratch + 4 * NAME(EDGE_FLOATS) + 32 * (width / 16 + 1);
  for (size_t row = begin; row < end; row++) {
    float *target = g->target.values ? g->target.values + row * g->target.stride : NULL;
    float *leaked = g->leaked.values ? g->leaked.values + row * g->leaked.stride : NULL;
    float *score = g->score_gradient.values ? g->score_gradient.values + row * g->score_gradient.stride : NULL;
    float sum[NAME(HEADS_MAX)] = {0};
    if (!g->accumulates) {
      if (target) memset(target, 0, width * sizeof(float));
      if (leaked) memset(leaked, 0, width * sizeof(float));
      if (score) memset(score, 0, g->heads * sizeof(float));
    } else if (score) {
      memcpy(sum, score, g->heads * sizeof(float));
    }
    if (!NAME(is_active)(g->active, row)) continue;
    size_t count;
    const uint32_t *list = NAME(neighbours_at)(g, row, &count);
    const size_t known = g->covers_all ? g->pointers[end] - g->pointers[row] : count;
    NAME(own) own;
    if (count > 0) NAME(own_numbers)(g, row, padded, &own);
    for (size_t first = 0, next; first < count; first = next) {
      const uint32_t *few = list + first;
      uint32_t chosen[NAME(EDGES)];
      size_t some = 0, ahead = known - first;
      if (g->others.marks) {
        for (next = first; next < count && some < block; next++)
          if (NAME(is_active)(g->others, list[next])) chosen[some++] = list[next];
        if (some == 0) continue;
        few = chosen;
        ahead = some;
      } else {
        some = count - first < block ? count - first : block;
        next = first + some;
      }
      NAME(edge_weights)(g, row, few, some, &own, &edges, 1);
      if (score) {
        if (!g->rows_are_targets)
          NAME(gather_heads)(g->dots, few, some, g->other_first, g->heads, padded, theirs);
        for (size_t i = 0; i < some * padded; i += 16) {
          v16 d = NAME(load)(g->rows_are_targets ? own.dots + (padded <= 16 ? 0 : i % padded) : theirs + i);
          NAME(store)(edges.part + i, -(NAME(load)(edges.plain + i) * NAME(load)(edges.leak + i) * d));
        }
        NAME(sum_edges)(edges.part, some, padded, sum);
      }
      if (target) NAME(attend_edges)(g, g->source, few, some, ahead, edges.weight, padded, heads, mixed, target);
      if (!leaked) continue;
      for (size_t i = 0; i < some * padded; i += 16)
        NAME(store)(edges.part + i, NAME(load)(edges.weight + i) * NAME(load)(edges.leak + i));
      NAME(attend_edges)(g, g->source, few, some, target ? some : ahead, edges.part, padded, heads, mixed, leaked);
    }
    if (score) memcpy(score, sum, g->heads * sizeof(float));
  }
}

static void NAME(head_dots)(const sk_head_dots *p, size_t begin, size_t end) {
  for (size_t row = begin; row < end; row++) {
    if (!NAME(is_active)(p->active, row)) {
      if (!p->accumulates) NAME(clear)(p->target, p->target_stride, p->heads, row, row + 1);
      continue;
    }
    float *target = p->target + row * p->target_stride;
    for (size_t h = 0; h < p->heads; h++) {
      float dot = NAME(dot)(p->x + row * p->x_stride + h * p->head_width, p->y + row * p->y_stride + h * p->head_width,
                            p->head_width);
      target[h] = p->accumulates ? target[h] + dot : dot;
    }
  }
}

// MARK: Dense products

// c[rows, up to 16 · vectors] (+)= a · panel, where panel is [inner][16 · vectors]. `rows` and `vectors` are constants
// after inlining; a's element (row, k) is a[row · row_step + k · inner_step].
INLINE void NAME(micro)(const float *restrict a, size_t row_step, size_t inner_step, const float *restrict panel,
                        size_t inner, float *restrict c, size_t c_stride, size_t width, int accumulates, int rows,
                        int vectors) {
  v16 sum[MICRO_ROWS][MICRO_VECTORS];
  size_t last = width - 16 * (size_t)(vectors - 1);
#pragma clang loop unroll(full)
  for (int r = 0; r < rows; r++)
#pragma clang loop unroll(full)
    for (int v = 0; v < vectors; v++) {
      const float *from = c + r * c_stride + 16 * v;
      if (!accumulates)
        sum[r][v] = (v16){0};
      else
        sum[r][v] = v == vectors - 1 && last < 16 ? NAME(load_part)(from, last) : NAME(load)(from);
    }
  for (size_t k = 0; k < inner; k++) {
    v16 b[MICRO_VECTORS];
#pragma clang loop unroll(full)
    for (int v = 0; v < vectors; v++) b[v] = NAME(load)(panel + (k * vectors + v) * 16);
#pragma clang loop unroll(full)
    for (int r = 0; r < rows; r++) {
      v16 x = NAME(splat)(a[r * row_step + k * inner_step]);
#pragma clang loop unroll(full)
      for (int v = 0; v < vectors; v++) sum[r][v] = NAME(fma)(x, b[v], sum[r][v]);
    }
  }
#pragma clang loop unroll(full)
  for (int r = 0; r < rows; r++)
#pragma clang loop unroll(full)
    for (int v = 0; v < vectors; v++) {
      float *to = c + r * c_stride + 16 * v;
      if (v == vectors - 1 && last < 16)
        NAME(store_part)(to, sum[r][v], last);
      else
        NAME(store)(to, sum[r][v]);
    }
}

// The same for any number of rows up to MICRO_ROWS.
INLINE void NAME(micro_any)(const float *restrict a, size_t row_step, size_t inner_step, const float *restrict panel,
                            size_t inner, float *restrict c, size_t c_stride, size_t width, int accumulates,
                            size_t rows) {
#define CALL(n)                                                                                        \
  case n:                                                                                              \
    if (MICRO_VECTORS == 1 || width <= 16)                                                             \
      NAME(micro)(a, row_step, inner_step, panel, inner, c, c_stride, width, accumulates, n, 1);       \
    else                                                                                               \
      NAME(micro)(a, row_step, inner_step, panel, inner, c, c_stride, width, accumulates, n, MICRO_VECTORS); \
    break;
  switch (rows) {
#if MICRO_ROWS == 14
    CALL(14) CALL(13) CALL(12) CALL(11) CALL(10) CALL(9) CALL(8) CALL(7)
#endif
#if MICRO_ROWS >= 6
    CALL(6) CALL(5) CALL(4)
#endif
    CALL(3) CALL(2) CALL(1)
  }
#undef CALL
}

enum {
  NAME(PANEL) = 16 * MICRO_VECTORS,
  NAME(BLOCK_COLUMNS) = 512,
  NAME(BLOCK_INNER) = 512,
  NAME(TILE_INNER) = 256,
};

// Width of the panel that starts at `column`: a full one, or one vector for a rest of up to 16.
INLINE size_t NAME(panel_width)(size_t left) { return left <= 16 ? 16 : (size_t)NAME(PANEL); }

// b's [inner, columns] block as panels [columns / width][inner][width], zero beyond the last column. Its rows are those
// of `list`, where there is one.
static void NAME(pack_b)(const float *b, size_t stride, int transposed, const uint32_t *list, size_t inner,
                         size_t columns, float *out) {
  for (size_t column = 0; column < columns;) {
    size_t width = NAME(panel_width)(columns - column);
    size_t real = columns - column < width ? columns - column : width;
    if (transposed) {
      for (size_t j = 0; j < width; j++) {
        const float *from = b + (column + j) * stride;
        for (size_t k = 0; k < inner; k++) out[k * width + j] = j < real ? from[k] : 0.0f;
      }
    } else {
      for (size_t k = 0; k < inner; k++) {
        const float *from = b + (list ? list[k] : k) * stride + column;
        float *to = out + k * width;
        for (size_t j = 0; j < width; j += 16) {
          if (j + 16 <= real)
            NAME(store)(to + j, NAME(load)(from + j));
          else
            NAME(store)(to + j, j < real ? NAME(load_part)(from + j, real - j) : (v16){0});
        }
      }
    }
    out += width * inner;
    column += width;
  }
}

// c [rows, columns] (+)= a · b for all panels of a packed b; `rows` is at most MICRO_ROWS.
INLINE void NAME(micro_panels)(const float *a, size_t row_step, size_t inner_step, const float *panel, size_t inner,
                               size_t columns, float *c, size_t c_stride, int accumulates, size_t rows) {
  for (size_t j = 0; j < columns;) {
    size_t width = NAME(panel_width)(columns - j);
    size_t real = columns - j < width ? columns - j : width;
    NAME(micro_any)(a, row_step, inner_step, panel, inner, c + j, c_stride, real, accumulates, rows);
    panel += width * inner;
    j += width;
  }
}

// Packs rows [k, k + inner) and `columns` columns from `column` on of f's b. Returns where the next may lie.
INLINE float *NAME(pack_factor)(const sk_product *p, const sk_factors *f, size_t k, size_t inner, size_t column,
                                size_t columns, float *out) {
  const float *b = p->transposes_b ? f->b + column * f->b_stride + k : f->b + k * f->b_stride + column;
  NAME(pack_b)(b, f->b_stride, p->transposes_b, NULL, inner, columns, out);
  return out + inner * (columns + 16);
}

// c (+)= a · panel for a few rows that may lie apart: then through copies, since they are computed together.
INLINE void NAME(few_rows)(const sk_product *p, const sk_factors *f, const uint32_t *list, size_t rows, size_t k,
                           size_t inner, size_t column, size_t columns, int accumulates, const float *panel,
                           float *apart) {
  const float *a = f->a + list[0] * f->a_stride + k;
  float *c = p->c + list[0] * p->c_stride + column;
  if (list[rows - 1] - list[0] == rows - 1) {
    // Rows of a are read as they lie: a few of them stay in the first cache for all panels.
    NAME(micro_panels)(a, f->a_stride, 1, panel, inner, columns, c, p->c_stride, accumulates, rows);
    return;
  }
  float *near_c = apart + 16 * NAME(BLOCK_INNER);
  for (size_t r = 0; r < rows; r++) {
    memcpy(apart + r * inner, f->a + list[r] * f->a_stride + k, inner * sizeof(float));
    if (accumulates) memcpy(near_c + r * columns, p->c + list[r] * p->c_stride + column, columns * sizeof(float));
  }
  NAME(micro_panels)(apart, inner, 1, panel, inner, columns, near_c, columns, accumulates, rows);
  for (size_t r = 0; r < rows; r++)
    memcpy(p->c + list[r] * p->c_stride + column, near_c + r * columns, columns * sizeof(float));
}

static void NAME(product)(const sk_product *p, size_t begin, size_t end, float *scratch) {
  const sk_factors *parts[2] = {&p->factors, &p->more};
  const int count = p->more.inner > 0 ? 2 : 1;
  // Both at once where they fit: the sums then stay in the first cache from one to the other.
  const int together = count == 2 && p->factors.inner + p->more.inner <= NAME(BLOCK_INNER);
  float *apart = scratch + NAME(BLOCK_INNER) * (NAME(BLOCK_COLUMNS) + 16);
  if (p->active.marks && !p->accumulates)
    for (size_t row = begin, stop; row < end; row = stop) {
      stop = NAME(run)(p->active, row, end);
      if (!NAME(is_active)(p->active, row)) NAME(clear)(p->c, p->c_stride, p->columns, row, stop);
    }
  for (size_t column = 0; column < p->columns; column += NAME(BLOCK_COLUMNS)) {
    size_t columns = p->columns - column < NAME(BLOCK_COLUMNS) ? p->columns - column : NAME(BLOCK_COLUMNS);
    int accumulates = p->accumulates;
    for (int part = 0; part < count; part += together ? 2 : 1) {
      const sk_factors *f = parts[part];
      for (size_t k = 0; k < f->inner; k += NAME(BLOCK_INNER)) {
        size_t inner = f->inner - k < NAME(BLOCK_INNER) ? f->inner - k : NAME(BLOCK_INNER);
        float *next = NAME(pack_factor)(p, f, k, inner, column, columns, scratch);
        if (together) NAME(pack_factor)(p, &p->more, 0, p->more.inner, column, columns, next);
        int ends = (together || part == count - 1) && k + inner == f->inner && column + columns == p->columns;
        size_t done = begin;
        for (size_t row = begin; row < end;) {
          uint32_t list[MICRO_ROWS];
          size_t rows = 0;
          for (; row < end && rows < MICRO_ROWS; row++)
            if (NAME(is_active)(p->active, row)) list[rows++] = (uint32_t)row;
          if (rows > 0) {
            NAME(few_rows)(p, f, list, rows, k, inner, column, columns, accumulates, scratch, apart);
            if (together)
              NAME(few_rows)(p, &p->more, list, rows, 0, p->more.inner, column, columns, 1, next, apart);
          }
          // A chain has a cost for each call, so it waits for a few rows more than the product takes at once.
          if (!ends || p->chain.count == 0 || (row - done < CHAIN_ROWS && row < end)) continue;
          for (size_t stop; done < row; done = stop) {
            stop = NAME(run)(p->active, done, row);
            if (NAME(is_active)(p->active, done))
              NAME(apply)(&p->chain, p->c, p->c_stride, p->columns, done, stop);
          }
        }
        accumulates = 1;
      }
    }
  }
}

// MARK: Gradients of weights, tile by tile

// Adds the sum of tile number `tile`, which lies in the working level, to the stack; the level keeps one that goes on in
// the next rows.
static void NAME(push_tile)(float *stack, size_t levels, size_t count, uint64_t tile, size_t begin, size_t end) {
  const float *sum = stack + levels * count;
  int full = __builtin_ctzll(~tile);
  float *target = stack + (size_t)full * count;
  for (size_t i = begin; i < end; i += 16) {
    size_t n = end - i < 16 ? end - i : 16;
    v16 v = n == 16 ? NAME(load)(sum + i) : NAME(load_part)(sum + i, n);
    for (int level = 0; level < full; level++) {
      const float *older = stack + (size_t)level * count + i;
      v = (n == 16 ? NAME(load)(older) : NAME(load_part)(older, n)) + v;
    }
    if (n == 16)
      NAME(store)(target + i, v);
    else
      NAME(store_part)(target + i, v, n);
  }
}

static void NAME(tile_product)(const sk_tile_product *p, size_t begin, size_t end, float *scratch) {
  if (begin == end) return;
  float *packed_b = scratch;
  float *packed_a = scratch + NAME(BLOCK_COLUMNS) * NAME(TILE_INNER);
  const size_t count = p->m * p->n;
  // As few blocks as there can be, all of about the same height: few rows take as long as some more.
  const size_t blocks = (end - begin + MICRO_ROWS - 1) / MICRO_ROWS, most = (end - begin + blocks - 1) / blocks;
  float *sums = p->stack + p->levels * count;
  uint64_t tile = p->first_tile;
  for (size_t first = 0; first < p->rows; first += SK_TILE_ROWS, tile++) {
    size_t all = p->rows - first < SK_TILE_ROWS ? p->rows - first : SK_TILE_ROWS, rows = 0;
    uint32_t list[SK_TILE_ROWS];
    for (size_t row = 0; row < all; row++)
      if (NAME(is_active)(p->active, first + row)) list[rows++] = (uint32_t)row;
    if (rows == 0 && !p->continues) memset(sums + begin * p->n, 0, (end - begin) * p->n * sizeof(float));
    for (size_t column = 0; column < p->n; column += NAME(BLOCK_COLUMNS)) {
      size_t columns = p->n - column < NAME(BLOCK_COLUMNS) ? p->n - column : NAME(BLOCK_COLUMNS);
      for (size_t k = 0; k < rows; k += NAME(TILE_INNER)) {
        size_t inner = rows - k < NAME(TILE_INNER) ? rows - k : NAME(TILE_INNER);
        NAME(pack_b)(p->b + first * p->b_stride + column, p->b_stride, 0, list + k, inner, columns, packed_b);
        for (size_t i = begin; i < end; i += most) {
          size_t height = end - i < most ? end - i : most;
          const float *from = p->a + first * p->a_stride + i;
          // Packed, since rows of a are read across: far apart they would evict each other from the first cache.
          for (size_t row = 0; row < inner; row++)
            NAME(store_part)(packed_a + row * MICRO_ROWS, NAME(load_part)(from + list[k + row] * p->a_stride, height),
                             height);
          NAME(micro_panels)(packed_a, 1, MICRO_ROWS, packed_b, inner, columns, sums + i * p->n + column, p->n,
                             k > 0 || p->continues, height);
        }
      }
    }
    if (!p->stays_open) NAME(push_tile)(p->stack, p->levels, count, tile, begin * p->n, end * p->n);
  }
}

// The factor of each of the n columns from `column` on, in one row; `head` is that of all of them where it is not negative.
INLINE v16 NAME(factor)(const sk_tile_column_sum *p, const float *factors, size_t column, size_t n, long head_of_all) {
  if (!p->heads) return NAME(load_some)(factors + column, n);
  if (head_of_all >= 0) return NAME(splat)(factors[head_of_all]);
  size_t width = p->columns / p->heads;
  float each[16] = {0};
  for (size_t i = 0; i < n; i++) each[i] = factors[(column + i) / width];
  return NAME(load)(each);
}

// The head that n columns from `column` on belong to, or -1 where that is not one.
INLINE long NAME(only_head)(const sk_tile_column_sum *p, size_t column, size_t n) {
  if (!p->heads) return -1;
  size_t width = p->columns / p->heads, head = column / width;
  return (column + n - 1) / width == head ? (long)head : -1;
}

static void NAME(tile_column_sum)(const sk_tile_column_sum *p, size_t begin, size_t end) {
  float *sums = p->stack + p->levels * p->columns;
  uint64_t tile = p->first_tile;
  for (size_t first = 0; first < p->rows; first += SK_TILE_ROWS, tile++) {
    size_t rows = p->rows - first < SK_TILE_ROWS ? p->rows - first : SK_TILE_ROWS;
    const float *a = p->a + first * p->a_stride;
    const float *factors = p->factors ? p->factors + first * p->factors_stride : NULL;
    size_t column = begin;
    for (; column + 64 <= end; column += 64) {
      v16 sum[4] = {{0}};
      long head[4];
      for (int i = 0; i < 4; i++) head[i] = NAME(only_head)(p, column + 16 * i, 16);
      if (p->continues)
        for (int i = 0; i < 4; i++) sum[i] = NAME(load)(sums + column + 16 * i);
      for (size_t row = 0; row < rows; row++) {
        if (!NAME(is_active)(p->active, first + row)) continue;
        for (int i = 0; i < 4; i++) {
          v16 v = NAME(load)(a + row * p->a_stride + column + 16 * i);
          if (factors)
            sum[i] = NAME(fma)(v, NAME(factor)(p, factors + row * p->factors_stride, column + 16 * i, 16, head[i]),
                               sum[i]);
          else
            sum[i] += v;
        }
      }
      for (int i = 0; i < 4; i++) NAME(store)(sums + column + 16 * i, sum[i]);
    }
    for (; column < end; column += 16) {
      size_t n = end - column < 16 ? end - column : 16;
      const long head = NAME(only_head)(p, column, n);
      v16 sum = p->continues ? NAME(load_some)(sums + column, n) : (v16){0};
      for (size_t row = 0; row < rows; row++) {
        if (!NAME(is_active)(p->active, first + row)) continue;
        v16 v = NAME(load_some)(a + row * p->a_stride + column, n);
        if (factors)
          sum = NAME(fma)(v, NAME(factor)(p, factors + row * p->factors_stride, column, n, head), sum);
        else
          sum += v;
      }
      NAME(store_some)(sums + column, sum, n);
    }
    if (!p->stays_open) NAME(push_tile)(p->stack, p->levels, p->columns, tile, begin, end);
  }
}

// MARK: Losses

// Softmax cross-entropy of one row.
INLINE void NAME(class_loss)(const sk_loss *p, size_t row, size_t split, float *gradient, sk_tile_figures *figure) {
  float weights[4096 + 16];
  const i16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const size_t classes = p->classes;
  const int32_t label = p->labels[row];
  const float *z = p->outputs + row * p->outputs_stride;
  v16 highest = NAME(splat)(z[0]);
  for (size_t i = 0; i < classes; i += 16) {
    size_t n = classes - i < 16 ? classes - i : 16;
    v16 v = NAME(load_some)(z + i, n);
    highest = NAME(choose)((i16)(v > highest) & (i16)(lane < (int32_t)n), v, highest);
  }
  float top = NAME(lane_max)(highest);
  // The lowest-numbered maximum is the prediction.
  int correct = z[label] == top;
  for (int32_t i = 0; correct && i < label; i++) correct = z[i] != top;
  v16 sum = {0};
  for (size_t i = 0; i < classes; i += 16) {
    size_t n = classes - i < 16 ? classes - i : 16;
    // Lanes beyond the classes count nothing.
    v16 e = NAME(first_lanes)(NAME(exp)(NAME(load_some)(z + i, n) - top), n);
    NAME(store)(weights + i, e);
    sum += e;
  }
  float total = NAME(lane_sum)(sum);
  float loss = sk_log(total) - (z[label] - top);
  float weight = p->class_weights ? p->class_weights[label] : 1.0f;
  figure->loss[split] += (double)weight * (double)loss;
  figure->weight[split] += (double)weight;
  figure->correct[split] += (uint64_t)correct;
  if (!gradient) return;
  float share = (float)((double)weight / p->total);
  const v16 scale = NAME(splat)(share / total);
  for (size_t i = 0; i < classes; i += 16)
    NAME(store_some)(gradient + i, NAME(load)(weights + i) * scale, classes - i < 16 ? classes - i : 16);
  gradient[label] -= share;
}

// Binary cross-entropy of one row's sigmoids; false if a bit beyond the classes is set.
INLINE int NAME(bit_loss)(const sk_loss *p, size_t row, size_t split, float *gradient, sk_tile_figures *figure) {
  const i16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const i16 lane_bit = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
  const size_t classes = p->classes, bytes = (classes + 7) / 8;
  const uint8_t *bits = p->bits + row * bytes;
  if (classes % 8 && bits[bytes - 1] >> (classes % 8)) return 0;
  const float *z = p->outputs + row * p->outputs_stride;
  const float share = (float)(1.0 / p->total);
  v16 loss = {0}, weight = {0};
  i16 right = {0}, predicted = {0}, actual = {0};
  for (size_t i = 0; i < classes; i += 16) {
    size_t n = classes - i < 16 ? classes - i : 16;
    int32_t word = bits[i / 8] | (i / 8 + 1 < bytes ? bits[i / 8 + 1] << 8 : 0);
    i16 is = (lane_bit & word) != 0;
    i16 real = (i16)(lane < (int32_t)n);
    v16 v = NAME(load_some)(z + i, n);
    v16 w = p->class_weights ? NAME(load_some)(p->class_weights + i, n) : NAME(splat)(1.0f);
    i16 positive = (i16)(v > 0.0f);
    // e = exp(−|v|); a number that is none stays that.
    v16 e = NAME(exp)(NAME(choose)(positive, -v, v));
    v16 each = (v16)((i16)v & positive) - (v16)((i16)v & is) + NAME(log)(e + 1.0f);
    each = NAME(choose)((i16)(v != v), v, each);
    loss += (v16)((i16)(w * each) & real);
    weight += (v16)((i16)w & real);
    predicted -= positive & real;
    actual -= is;
    right -= positive & is;
    if (!gradient) continue;
    v16 sigmoid = NAME(choose)(positive, NAME(splat)(1.0f), e) / (e + 1.0f);
    v16 one = (v16)((i16)NAME(splat)(1.0f) & is);
    NAME(store_some)(gradient + i, (sigmoid - one) * (w * share), n);
  }
  figure->loss[split] += (double)NAME(lane_sum)(loss);
  figure->weight[split] += (double)NAME(lane_sum)(weight);
  for (int i = 0; i < 16; i++) {
    figure->correct[split] += (uint64_t)right[i];
    figure->predicted[split] += (uint64_t)predicted[i];
    figure->actual[split] += (uint64_t)actual[i];
  }
  return 1;
}

// Squared error of one row; false if a value is no finite number.
INLINE int NAME(value_loss)(const sk_loss *p, size_t row, size_t split, float *gradient, sk_tile_figures *figure) {
  const float *z = p->outputs + row * p->outputs_stride, *values = p->values + row * p->values_stride;
  for (size_t i = 0; i < p->classes; i++) {
    if (!(values[i] - values[i] == 0.0f)) return 0;
    double weight = p->class_weights ? (double)p->class_weights[i] : 1.0, value = (double)values[i];
    double error = (double)z[i] - value;
    figure->loss[split] += weight * error * error;
    figure->weight[split] += weight;
    figure->target_sum[split] += weight * value;
    figure->target_squares[split] += weight * value * value;
    if (gradient) gradient[i] = (float)(2.0 * weight * error / p->total);
  }
  return 1;
}

static int64_t NAME(loss)(const sk_loss *p, size_t begin, size_t end, sk_tile_figures *figures) {
  for (size_t tile = begin; tile < end; tile++) {
    sk_tile_figures *figure = figures + tile;
    size_t stop = (tile + 1) * SK_TILE_ROWS < p->rows ? (tile + 1) * SK_TILE_ROWS : p->rows;
    for (size_t row = tile * SK_TILE_ROWS; row < stop; row++) {
      float *gradient = p->gradient ? p->gradient + row * p->gradient_stride : NULL;
      uint8_t split = p->split[row];
      if (split > SK_SPLITS) return (int64_t)row;
      int is_labelled = split > 0 && (!p->labels || p->labels[row] >= 0);
      float *wanted = is_labelled && split == 1 ? gradient : NULL;
      if (is_labelled) {
        int is_valid = 1;
        if (p->labels) {
          is_valid = (size_t)p->labels[row] < p->classes;
          if (is_valid) NAME(class_loss)(p, row, split - 1u, wanted, figure);
        } else if (p->bits) {
          is_valid = NAME(bit_loss)(p, row, split - 1u, wanted, figure);
        } else {
          is_valid = NAME(value_loss)(p, row, split - 1u, wanted, figure);
        }
        if (!is_valid) return (int64_t)row;
        figure->labelled[split - 1] += 1;
      }
      if (gradient && !wanted) memset(gradient, 0, p->classes * sizeof(float));
    }
  }
  return -1;
}

// MARK: Parameters

static void NAME(adam)(const sk_adam *p, size_t begin, size_t end) {
  for (size_t i = begin; i < end; i += 16) {
    size_t n = end - i < 16 ? end - i : 16;
    v16 w = NAME(load_part)(p->parameter + i, n), g = NAME(load_part)(p->gradient + i, n);
    v16 m = NAME(load_part)(p->first + i, n), v = NAME(load_part)(p->second + i, n);
    g = NAME(fma)(NAME(splat)(p->weight_decay), w, g);
    m = NAME(fma)(NAME(splat)(p->beta1), m, NAME(splat)(p->one_minus_beta1) * g);
    v = NAME(fma)(NAME(splat)(p->beta2), v, (NAME(splat)(p->one_minus_beta2) * g) * g);
    v16 denominator = __builtin_elementwise_sqrt(v) / NAME(splat)(p->root_correction) + NAME(splat)(p->epsilon);
    w = w - NAME(splat)(p->step_size) * (m / denominator);
    NAME(store_part)(p->parameter + i, w, n);
    NAME(store_part)(p->first + i, m, n);
    NAME(store_part)(p->second + i, v, n);
  }
}

static void NAME(uniform_row)(float *row, size_t columns, float bound, uint64_t seed, uint32_t row_number,
                              uint32_t stream) {
  uint32_t words[64];
  const uint64_t lanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, same[16] = {0};
  for (size_t column = 0; column < columns; column++) {
    if (column % 64 == 0)
      NAME(philox16)(lanes, (uint32_t)(column / 4), same, row_number, 0xFFFFFFFFu, stream, seed, words);
    row[column] = ((float)(words[column % 64] >> 8) * 0x1p-23f - 1.0f) * bound;
  }
}

static const sk_kernels NAME(table) = {
    LEVEL_NAME,
    NAME(map),
    NAME(topology_valid),
    NAME(aggregate),
    NAME(attention_scale),
    NAME(attend),
    NAME(attention_gradient),
    NAME(head_dots),
    NAME(product),
    NAME(tile_product),
    NAME(tile_column_sum),
    NAME(loss),
    NAME(adam),
    NAME(uniform_row),
};

#undef MICRO_ROWS
#undef MICRO_VECTORS
#undef AGGREGATE_VECTORS
#undef INLINE
#undef CHAIN_ROWS
#undef LEVEL
#undef LEVEL_NAME
#undef NAME
