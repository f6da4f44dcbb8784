#include "CKernels.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

// A worker that has nothing to do looks this often whether there is something again before it sleeps, some 10 µs: the
// next run mostly comes sooner, and waking a sleeper takes longer.
enum { SPINS = 200 };

struct sk_pool {
  unsigned threads;
  pthread_t *handles;
  pthread_mutex_t lock;
  pthread_cond_t work, done;
  _Atomic unsigned generation;  // counts the runs; changed under lock, as is `ends`
  _Atomic unsigned running;
  _Atomic int ends;
  void (*body)(void *, unsigned);  // these two are set before the generation that they belong to
  void *context;
};

typedef struct {
  sk_pool *pool;
  unsigned part;
} sk_worker;

static inline void spin(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb");
#endif
}

static void *serve(void *raw) {
  sk_worker worker = *(sk_worker *)raw;
  free(raw);
  sk_pool *pool = worker.pool;
  unsigned seen = 0;
  for (;;) {
    for (int i = 0; i < SPINS && atomic_load(&pool->generation) == seen && !atomic_load(&pool->ends); i++) spin();
    if (atomic_load(&pool->generation) == seen) {
      pthread_mutex_lock(&pool->lock);
      while (atomic_load(&pool->generation) == seen && !atomic_load(&pool->ends))
        pthread_cond_wait(&pool->work, &pool->lock);
      pthread_mutex_unlock(&pool->lock);
    }
    if (atomic_load(&pool->ends)) return NULL;
    seen = atomic_load(&pool->generation);
    pool->body(pool->context, worker.part);
    if (atomic_fetch_sub(&pool->running, 1) == 1) {
      pthread_mutex_lock(&pool->lock);
      pthread_cond_signal(&pool->done);
      pthread_mutex_unlock(&pool->lock);
    }
  }
}

sk_pool *sk_pool_create(unsigned threads) {
  sk_pool *pool = calloc(1, sizeof *pool);
  if (!pool) return NULL;
  pool->handles = calloc(threads ? threads : 1, sizeof *pool->handles);
  pthread_mutex_init(&pool->lock, NULL);
  pthread_cond_init(&pool->work, NULL);
  pthread_cond_init(&pool->done, NULL);
  pool->threads = 1;
  while (pool->handles && pool->threads < threads) {
    sk_worker *worker = malloc(sizeof *worker);
    if (!worker) break;
    *worker = (sk_worker){pool, pool->threads};
    if (pthread_create(pool->handles + pool->threads - 1, NULL, serve, worker)) {
      free(worker);
      break;
    }
    pool->threads++;
  }
  if (!pool->handles || pool->threads < threads) {
    sk_pool_destroy(pool);
    return NULL;
  }
  return pool;
}

void sk_pool_run(sk_pool *pool, void (*body)(void *, unsigned), void *context) {
  if (pool->threads > 1) {
    pthread_mutex_lock(&pool->lock);
    pool->body = body;
    pool->context = context;
    atomic_store(&pool->running, pool->threads - 1);
    atomic_fetch_add(&pool->generation, 1);
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
  }
  body(context, 0);
  if (pool->threads > 1) {
    for (int i = 0; i < SPINS && atomic_load(&pool->running); i++) spin();
    if (!atomic_load(&pool->running)) return;
    pthread_mutex_lock(&pool->lock);
    while (atomic_load(&pool->running)) pthread_cond_wait(&pool->done, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
  }
}

void sk_pool_destroy(sk_pool *pool) {
  pthread_mutex_lock(&pool->lock);
  atomic_store(&pool->ends, 1);
  pthread_cond_broadcast(&pool->work);
  pthread_mutex_unlock(&pool->lock);
  for (unsigned i = 0; i + 1 < pool->threads; i++) pthread_join(pool->handles[i], NULL);
  pthread_mutex_destroy(&pool->lock);
  pthread_cond_destroy(&pool->work);
  pthread_cond_destroy(&pool->done);
  free(pool->handles);
  free(pool);
}
