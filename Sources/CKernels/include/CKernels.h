#pragma once
#include <stddef.h>
#include <stdint.h>

// Deterministic single-precision kernels for graph training, and a pool of threads to split them over.
//
// Every output element is computed by one fixed sequence of IEEE operations (explicit fused multiply-adds, no
// contraction, no re-association), so its bits depend on neither the number of threads, nor blocking, nor the
// instruction set: the three levels (portable, x86-64-v3, x86-64-v4) give the same bits. A kernel works on a range
// [begin, end) of its outputs; disjoint ranges may run at once. Sizes are checked by the caller.

#ifdef __cplusplus
extern "C" {
#endif

enum { SK_TILE_ROWS = 1024, SK_SPLITS = 3 };

enum {
  SK_STEP_BIAS = 1,
  SK_STEP_SCALE_ROWS = 2,
  SK_STEP_SCALE = 3,
  SK_STEP_RELU = 4,
  SK_STEP_RELU_GRADIENT = 5,
  SK_STEP_DROPOUT = 6,
  SK_STEP_ADD = 7,
  SK_STEP_SCALE_COLUMNS = 8,
  SK_STEP_ELU = 9,
  SK_STEP_ELU_GRADIENT = 10,
  SK_STEP_NORMALISE = 11,
  SK_STEP_NORMALISE_GRADIENT = 12,
  SK_STEP_ADD_HEADS = 13,
};

/// One row-local step. `values`: bias or scale [columns], scale [rows], or a [rows, columns] matrix with `stride`; for
/// SK_STEP_ADD_HEADS factors [rows, heads].
typedef struct {
  int32_t kind;
  uint32_t stream;
  uint32_t threshold;     // dropout: an element dies when its 16 bits are less
  uint32_t first_column;  // dropout: column of the whole matrix that column 0 is
  float constant;         // scale, dropout's 1 / (1 - p), or what keeps a deviation above 0
  const float *values;
  size_t stride;
  const float *vector;    // SK_STEP_ADD_HEADS: [columns]
  size_t heads;           // likewise; a divisor of the columns
} sk_step;

/// A row-local chain; applied in place.
typedef struct {
  const sk_step *steps;
  size_t count;
  uint64_t seed;
  uint32_t epoch;
  uint32_t first_row;  // row of the graph that row 0 is
} sk_chain;

/// Rows that matter: those whose byte has this bit; all of them where there are no marks. The others are not computed:
/// what would be written of them becomes 0 (stays, where a kernel accumulates), and sums over rows leave them out.
typedef struct {
  const uint8_t *marks;
  uint8_t bit;
} sk_active;

typedef struct {
  const float *source;
  size_t source_stride;
  float *target;
  size_t target_stride;
  size_t columns;
  sk_chain chain;
  sk_active active;
} sk_map;

typedef struct {
  const uint64_t *pointers;  // [rows + 1], positions counted from edge_base
  const uint32_t *neighbours;
  uint64_t edge_base;
  const float *source;  // row 0 is row source_first of the graph
  size_t source_stride;
  uint32_t source_first;
  uint32_t source_rows;
  int covers_all;  // the source holds every node
  float *target;
  size_t target_stride;
  size_t width;
  int accumulates;
  sk_chain chain;
  sk_active active;
} sk_aggregate;

/// Numbers of nodes, row by row.
typedef struct {
  float *values;
  size_t stride;
} sk_rows;

/// An attention over edges between `rows` and their neighbours. Numbers of nodes are [.., heads], what is summed and its
/// sums [.., heads * head_width]; the first row of each is the first of its end.
typedef struct {
  const uint64_t *pointers;  // [rows + 1], positions counted from edge_base
  const uint32_t *neighbours;
  uint64_t edge_base;
  uint32_t first_row;                // row of the graph that row 0 is
  uint32_t other_first, other_rows;  // rows of the graph at the neighbours' end
  int covers_all;                    // the neighbours' end holds every node
  int rows_are_targets;
  size_t heads, head_width;
  float slope;
  sk_rows target_scores, highest, inverse, source_scores;
  sk_rows dots;            // targets'
  sk_rows source;          // what is summed: rows of the neighbours' end
  sk_rows target;          // its sum, weighed; in a gradient this, and both that follow, may have no values
  sk_rows leaked;          // gradient: its sum, weighed with weight · leak
  sk_rows score_gradient;  // gradient: the sum of − weight before dropout · leak · dot
  int accumulates;
  int drops;
  uint32_t threshold, stream, first_head;
  float keep;  // 1 / (1 - p)
  sk_chain chain;
  sk_active active;
  sk_active others;  // the other end's nodes that matter, by number; the gradient of sources goes over these alone
} sk_attention;

typedef struct {
  const float *x;
  size_t x_stride;
  const float *y;
  size_t y_stride;  // 0: the same vector for every row
  float *target;
  size_t target_stride;
  size_t heads, head_width;
  int accumulates;
  sk_active active;
} sk_head_dots;

typedef struct {
  const float *a;
  size_t a_stride;
  const float *b;
  size_t b_stride;
  size_t inner;
} sk_factors;

typedef struct {
  sk_factors factors;
  sk_factors more;  // a second product into the same sums, after the first; none with inner 0
  float *c;
  size_t c_stride;
  size_t columns;
  int transposes_b;
  int accumulates;
  sk_chain chain;
  sk_active active;
} sk_product;

typedef struct {
  const float *a;  // [rows, m]
  size_t a_stride;
  const float *b;  // [rows, n]
  size_t b_stride;
  size_t m, n;
  size_t rows;
  uint64_t first_tile;
  int continues;   // the rows before were of the same tile
  int stays_open;  // the tile goes on in the rows behind
  size_t levels;
  float *stack;  // [levels + 1, m, n]
  sk_active active;
} sk_tile_product;

typedef struct {
  const float *a;
  size_t a_stride;
  const float *factors;  // or NULL: [rows, columns], or [rows, heads]
  size_t factors_stride;
  size_t heads;  // 0: a factor for each element
  size_t columns;
  size_t rows;
  uint64_t first_tile;
  int continues, stays_open;  // as in sk_tile_product
  size_t levels;
  float *stack;  // [levels + 1, columns]
  sk_active active;
} sk_tile_column_sum;

/// One of `labels`, `bits` ([rows, (classes + 7) / 8] bytes) and `values` says what the outputs should be.
typedef struct {
  const float *outputs;
  size_t outputs_stride;
  const int32_t *labels;
  const uint8_t *bits;
  const float *values;
  size_t values_stride;
  const uint8_t *split;
  const float *class_weights;  // or NULL
  size_t rows;
  size_t classes;
  double total;
  float *gradient;  // or NULL; may be the outputs
  size_t gradient_stride;
} sk_loss;

/// Figures of one tile, by split - 1.
typedef struct {
  double loss[SK_SPLITS];
  double weight[SK_SPLITS];
  uint64_t correct[SK_SPLITS];
  uint64_t labelled[SK_SPLITS];
  uint64_t predicted[SK_SPLITS];
  uint64_t actual[SK_SPLITS];
  double target_sum[SK_SPLITS];
  double target_squares[SK_SPLITS];
} sk_tile_figures;

typedef struct {
  float *parameter;
  const float *gradient;
  float *first;
  float *second;
  float beta1, one_minus_beta1, beta2, one_minus_beta2;
  float step_size;         // rate / (1 - beta1^t)
  float root_correction;   // sqrt(1 - beta2^t)
  float epsilon, weight_decay;
} sk_adam;

/// The kernels of one instruction set.
typedef struct {
  const char *name;
  void (*map)(const sk_map *, size_t begin, size_t end);
  /// Whether rows [begin, end) point inside `edges` and hold strictly ascending neighbours below `nodes`.
  int (*topology_valid)(const uint64_t *pointers, const uint32_t *neighbours, uint64_t edge_base, uint64_t edges,
                        uint64_t nodes, size_t begin, size_t end);
  void (*aggregate)(const sk_aggregate *, size_t begin, size_t end);
  /// Highest score and the inverse of the exponentials' sum of rows [begin, end), over all their neighbours.
  /// `scratch`, here and below: SK_SCRATCH_FLOATS floats, of this call alone.
  void (*attention_scale)(const sk_attention *, size_t begin, size_t end, float *scratch);
  void (*attend)(const sk_attention *, size_t begin, size_t end, float *scratch);
  /// Sums over the edges of rows [begin, end) of which gradients of scores and features are made.
  void (*attention_gradient)(const sk_attention *, size_t begin, size_t end, float *scratch);
  void (*head_dots)(const sk_head_dots *, size_t begin, size_t end);
  void (*product)(const sk_product *, size_t begin, size_t end, float *scratch);
  /// Rows [begin, end) of the [m, n] sums.
  void (*tile_product)(const sk_tile_product *, size_t begin, size_t end, float *scratch);
  void (*tile_column_sum)(const sk_tile_column_sum *, size_t begin, size_t end);
  /// Tiles [begin, end) of the chunk; their figures are added to. Returns the first row with a target or a split that
  /// cannot be, or -1.
  int64_t (*loss)(const sk_loss *, size_t begin, size_t end, sk_tile_figures *figures);
  void (*adam)(const sk_adam *, size_t begin, size_t end);
  /// Row `row` of a Glorot-uniform matrix.
  void (*uniform_row)(float *row, size_t columns, float bound, uint64_t seed, uint32_t row_number, uint32_t stream);
} sk_kernels;

/// A packed block of b, [512, 512 and up to a vector more], and of a; rows of a and c that lie apart.
enum { SK_SCRATCH_FLOATS = 512 * (512 + 16) + 2 * 16 * 512 };

/// Level 0 runs anywhere, 1 needs x86-64-v3, 2 x86-64-v4. NULL where this processor cannot run it.
const sk_kernels *sk_kernels_at(int level);
const sk_kernels *sk_kernels_best(void);

/// target = the sums that the stack holds after `tiles` tiles, elements [begin, end) of `count`.
void sk_tile_finish(const float *stack, uint64_t tiles, size_t count, float *target, size_t begin, size_t end);

/// Adds the figure of tile number `tile` to a fixed tree of doubles.
void sk_tile_push(double *levels, uint64_t tile, double value);
double sk_tile_total(const double *levels, uint64_t tiles);

// MARK: Threads

typedef struct sk_pool sk_pool;

/// `threads` - 1 threads; the caller of sk_pool_run is the last one. NULL if they cannot be started.
sk_pool *sk_pool_create(unsigned threads);
/// Runs body(context, part) for every part in [0, threads); returns when all are done. One caller at a time.
void sk_pool_run(sk_pool *, void (*body)(void *context, unsigned part), void *context);
void sk_pool_destroy(sk_pool *);

#ifdef __cplusplus
}
#endif
