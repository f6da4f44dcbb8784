#include "block_aes.h"

#include <CCryptoBoringSSL_aead.h>
#include <CCryptoBoringSSL_err.h>

static EVP_AEAD_CTX *context(const sk_block_cipher *cipher) { return (EVP_AEAD_CTX *)cipher; }

sk_block_cipher *sk_block_cipher_new(const uint8_t *key) {
  return (sk_block_cipher *)EVP_AEAD_CTX_new(EVP_aead_aes_256_gcm(), key, SK_BLOCK_KEY_BYTES, SK_BLOCK_TAG_BYTES);
}

void sk_block_cipher_free(sk_block_cipher *cipher) { EVP_AEAD_CTX_free(context(cipher)); }

int sk_block_seal(
    const sk_block_cipher *cipher, const uint8_t *nonce, const uint8_t *in, size_t count, const uint8_t *aad,
    size_t aad_count, uint8_t *out, uint8_t *tag) {
  size_t tag_bytes = 0;
  int good = EVP_AEAD_CTX_seal_scatter(
      context(cipher), out, tag, &tag_bytes, SK_BLOCK_TAG_BYTES, nonce, SK_BLOCK_NONCE_BYTES, in, count, NULL, 0, aad,
      aad_count);
  if (!good) ERR_clear_error();
  return good && tag_bytes == SK_BLOCK_TAG_BYTES;
}

int sk_block_open(
    const sk_block_cipher *cipher, const uint8_t *nonce, const uint8_t *in, size_t count, const uint8_t *tag,
    const uint8_t *aad, size_t aad_count, uint8_t *out) {
  int good = EVP_AEAD_CTX_open_gather(
      context(cipher), out, nonce, SK_BLOCK_NONCE_BYTES, in, count, tag, SK_BLOCK_TAG_BYTES, aad, aad_count);
  if (!good) ERR_clear_error();
  return good;
}
