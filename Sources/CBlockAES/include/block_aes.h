// AES-256-GCM of large blocks by BoringSSL, as swift-crypto brings it: its code for vector AES (VAES) is the fastest here.
// A shim of its own, because BoringSSL and libcrypto define types of the same names; and through BoringSSL's C interface,
// because swift-crypto's own leaves each plaintext behind in memory that it allocates for it.
#pragma once
#include <stddef.h>
#include <stdint.h>

enum { SK_BLOCK_KEY_BYTES = 32, SK_BLOCK_NONCE_BYTES = 12, SK_BLOCK_TAG_BYTES = 16 };

// A key's schedule; any number of threads may seal and open with it at once (aead.h, "Concurrency").
typedef struct sk_block_cipher sk_block_cipher;

// NULL where there is no memory. `key` has SK_BLOCK_KEY_BYTES.
sk_block_cipher *sk_block_cipher_new(const uint8_t *key);

// Wipes the schedule.
void sk_block_cipher_free(sk_block_cipher *cipher);

// Writes `count` bytes of ciphertext to `out`, which is `in` or does not overlap it, and the tag. Gives 1, or 0 with
// nothing written.
int sk_block_seal(
    const sk_block_cipher *cipher, const uint8_t *nonce, const uint8_t *in, size_t count, const uint8_t *aad,
    size_t aad_count, uint8_t *out, uint8_t *tag);

// Writes `count` bytes of plaintext to `out`. Gives 0 where the tag does not fit; then `out` means nothing.
int sk_block_open(
    const sk_block_cipher *cipher, const uint8_t *nonce, const uint8_t *in, size_t count, const uint8_t *tag,
    const uint8_t *aad, size_t aad_count, uint8_t *out);
