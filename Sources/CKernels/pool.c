#include "CKernels.h"

#include <pthread.h>
#include <stdlib.h>

struct sk_pool {
  unsigned threads;
  pthread_t *handles;
  pthread_mutex_t lock;
  pthread_cond_t work, done;
  unsigned generation;  // counts the runs, under lock
  unsigned running;
  int ends;
  void (*body)(void *, unsigned);
  void *context;
};

typedef struct {
  sk_pool *pool;
  unsigned part;
} sk_worker;

static void *serve(void *raw) {
  sk_worker worker = *(sk_worker *)raw;
  free(raw);
  sk_pool *pool = worker.pool;
  unsigned seen = 0;
  for (;;) {
    pthread_mutex_lock(&pool->lock);
    while (pool->generation == seen && !pool->ends) pthread_cond_wait(&pool->work, &pool->lock);
    if (pool->ends) {
      pthread_mutex_unlock(&pool->lock);
      return NULL;
    }
    seen = pool->generation;
    pthread_mutex_unlock(&pool->lock);
    pool->body(pool->context, worker.part);
    pthread_mutex_lock(&pool->lock);
    if (--pool->running == 0) pthread_cond_signal(&pool->done);
    pthread_mutex_unlock(&pool->lock);
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
    pool->running = pool->threads - 1;
    pool->generation++;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
  }
  body(context, 0);
  if (pool->threads > 1) {
    pthread_mutex_lock(&pool->lock);
    while (pool->running) pthread_cond_wait(&pool->done, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
  }
}

void sk_pool_destroy(sk_pool *pool) {
  pthread_mutex_lock(&pool->lock);
  pool->ends = 1;
  pthread_cond_broadcast(&pool->work);
  pthread_mutex_unlock(&pool->lock);
  for (unsigned i = 0; i + 1 < pool->threads; i++) pthread_join(pool->handles[i], NULL);
  pthread_mutex_destroy(&pool->lock);
  pthread_cond_destroy(&pool->work);
  pthread_cond_destroy(&pool->done);
  free(pool->handles);
  free(pool);
}
