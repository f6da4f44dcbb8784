internal import COpenSSL

/// An AES-128 keystream in counter mode: bytes that nobody foresees without the key, for overwriting memory. Used by one
/// caller at a time.
package struct Keystream: ~Copyable {
    package static let keyBytes = 16
    private static let partBytes = 64 * 1024

    private let context: OpaquePointer
    /// What is enciphered: it stays in the cache, so the memory that is filled is written once and never read.
    private let zeros: UnsafeMutableRawBufferPointer

    /// `key` is 16 bytes.
    package init(key: borrowing SecretBytes) {
        precondition(key.count == Self.keyBytes, "an AES-128 key is 16 bytes")
        guard let context = EVP_CIPHER_CTX_new() else { fatalError("no memory for a cipher") }
        let ready = key.withBytes {
            EVP_EncryptInit_ex(
                context, EVP_aes_128_ctr(), nil, $0.baseAddress!.assumingMemoryBound(to: UInt8.self), nil)
        }
        precondition(ready == 1, "libcrypto has no AES-128 in counter mode")
        self.context = context
        zeros = .allocate(byteCount: Self.partBytes, alignment: 64)
        zeros.initializeMemory(as: UInt8.self, repeating: 0)
    }

    deinit {
        EVP_CIPHER_CTX_free(context)
        zeros.deallocate()
    }

    /// Overwrites memory with the keystream from a multiple of 16 bytes on.
    package mutating func fill(_ memory: UnsafeMutableRawBufferPointer, from offset: UInt64) {
        precondition(offset.isMultiple(of: 16), "a keystream begins at a cipher block")
        var counter = (UInt64(0), (offset / 16).bigEndian)
        var good = withUnsafeBytes(of: &counter) {
            EVP_EncryptInit_ex(context, nil, nil, nil, $0.baseAddress!.assumingMemoryBound(to: UInt8.self)) == 1
        }
        var filled = 0
        while filled < memory.count, good {
            let count = min(Self.partBytes, memory.count - filled)
            var written: Int32 = 0
            good =
                EVP_EncryptUpdate(
                    context, (memory.baseAddress! + filled).assumingMemoryBound(to: UInt8.self), &written,
                    zeros.baseAddress!.assumingMemoryBound(to: UInt8.self), Int32(count)) == 1 && Int(written) == count
            filled += count
        }
        precondition(good, "libcrypto could not make a keystream")
    }
}
