internal import COpenSSL
package import Vocabulary

/// SHA-256 (FIPS 180-4). libcrypto's, six times as fast as libsodium's.
package enum SHA256 {
    package static func hash(_ bytes: UnsafeRawBufferPointer) -> Digest {
        var stream = SHA256Stream()
        stream.update(bytes)
        return stream.finalize()
    }

    package static func hash(_ bytes: [UInt8]) -> Digest { bytes.withUnsafeBytes { hash($0) } }

    package static func hash(_ bytes: ArraySlice<UInt8>) -> Digest { bytes.withUnsafeBytes { hash($0) } }

    package static func hash(_ text: String) -> Digest { hash(Array(text.utf8)) }

    /// The hash of `prefix ‖ left ‖ right`, without an allocation: an inner node of a Merkle tree.
    package static func hash(prefix: UInt8, _ left: Digest, _ right: Digest) -> Digest {
        withUnsafeTemporaryAllocation(byteCount: 1 + 2 * Digest.byteCount, alignment: 1) { bytes in
            bytes[0] = prefix
            withUnsafeBytes(of: left) { UnsafeMutableRawBufferPointer(rebasing: bytes[1...]).copyMemory(from: $0) }
            withUnsafeBytes(of: right) { UnsafeMutableRawBufferPointer(rebasing: bytes[33...]).copyMemory(from: $0) }
            return hash(UnsafeRawBufferPointer(bytes))
        }
    }
}

/// A SHA-256 computed piece by piece.
package struct SHA256Stream {
    private var context = SHA256_CTX()

    package init() { SHA256_Init(&context) }

    package mutating func update(_ bytes: UnsafeRawBufferPointer) {
        SHA256_Update(&context, bytes.baseAddress, bytes.count)
    }

    package mutating func update(_ bytes: [UInt8]) { SHA256_Update(&context, bytes, bytes.count) }

    package mutating func update(_ bytes: ArraySlice<UInt8>) { bytes.withUnsafeBytes { update($0) } }

    package mutating func update(_ text: String) {
        var text = text
        text.withUTF8 { update(UnsafeRawBufferPointer($0)) }
    }

    package mutating func update(_ byte: UInt8) {
        var byte = byte
        SHA256_Update(&context, &byte, 1)
    }

    package mutating func update(_ digest: Digest) {
        // A digest is 32 bytes of plain storage and nothing else.
        withUnsafeBytes(of: digest) { update($0) }
    }

    package consuming func finalize() -> Digest {
        var digest = Self.blank
        withUnsafeMutableBytes(of: &digest) {
            _ = SHA256_Final($0.baseAddress!.assumingMemoryBound(to: UInt8.self), &context)
        }
        return digest
    }

    private static let blank: Digest = {
        precondition(MemoryLayout<Digest>.size == Digest.byteCount, "a digest is 32 bytes of plain storage")
        return Digest([UInt8](repeating: 0, count: Digest.byteCount))!
    }()
}

/// A SHA-256 that has begun and lies in somebody else's memory, to be finished from there again and again.
enum SHA256State {
    static let byteCount = MemoryLayout<SHA256_CTX>.stride

    /// `state` has room for `byteCount` bytes, aligned for words.
    static func begin(with bytes: UnsafeRawBufferPointer, in state: UnsafeMutableRawPointer) {
        let context = state.bindMemory(to: SHA256_CTX.self, capacity: 1)
        SHA256_Init(context)
        SHA256_Update(context, bytes.baseAddress, bytes.count)
    }

    /// The state stays as it is; the copy that is finished is wiped.
    static func finish(_ state: UnsafeRawPointer, with bytes: UnsafeRawBufferPointer) -> Digest {
        var context = state.load(as: SHA256_CTX.self)
        SHA256_Update(&context, bytes.baseAddress, bytes.count)
        return withUnsafeTemporaryAllocation(byteCount: Digest.byteCount, alignment: 1) { out in
            SHA256_Final(out.baseAddress!.assumingMemoryBound(to: UInt8.self), &context)
            OPENSSL_cleanse(&context, byteCount)
            return Digest(UnsafeRawBufferPointer(out), at: 0)
        }
    }
}

/// SHA-512 (FIPS 180-4), for the manifests of exports.
package enum SHA512 {
    package static func hash(_ bytes: [UInt8]) -> [UInt8] { hash(bytes[...]) }

    package static func hash(_ bytes: ArraySlice<UInt8>) -> [UInt8] {
        var context = SHA512_CTX()
        SHA512_Init(&context)
        bytes.withUnsafeBytes { _ = SHA512_Update(&context, $0.baseAddress, $0.count) }
        return [UInt8](unsafeUninitializedCapacity: 64) { out, count in
            SHA512_Final(out.baseAddress!, &context)
            count = 64
        }
    }
}
