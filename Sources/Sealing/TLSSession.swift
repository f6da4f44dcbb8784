private import COpenSSL
package import Vocabulary

/// One end of a TLS 1.3 connection with certificates on both sides, over memory: bytes go in and out by `feed` and
/// `takeOutput`, and whoever owns the socket moves them.
///
/// There is no resumption and no ticket, so that every connection has fresh keys.
package struct TLSSession: ~Copyable {
    private let ssl: OpaquePointer
    private let context: TLSContext

    package init(_ context: TLSContext) throws(TLSError) {
        guard let ssl = SSL_new(context.pointer), let input = BIO_new(BIO_s_mem()), let output = BIO_new(BIO_s_mem())
        else { throw TLSError(.unavailable, "no memory for a TLS session") }
        // An empty buffer means "not yet", never "closed": −1 makes OpenSSL ask for a retry.
        BIO_ctrl(input, BIO_C_SET_BUF_MEM_EOF_RETURN, -1, nil)
        BIO_ctrl(output, BIO_C_SET_BUF_MEM_EOF_RETURN, -1, nil)
        SSL_set_bio(ssl, input, output)
        switch context.role {
        case .client: SSL_set_connect_state(ssl)
        case .server: SSL_set_accept_state(ssl)
        }
        self.ssl = ssl
        self.context = context
    }

    deinit { SSL_free(ssl) }

    /// Takes bytes that came from the network.
    package mutating func feed(_ bytes: UnsafeRawBufferPointer) throws(TLSError) {
        guard !bytes.isEmpty else { return }
        guard BIO_write(SSL_get_rbio(ssl), bytes.baseAddress, Int32(bytes.count)) == Int32(bytes.count) else {
            throw TLSError(.unavailable, "no memory for received bytes")
        }
    }

    /// Bytes to be sent to the network now; empty when there are none.
    package mutating func takeOutput() -> [UInt8] {
        guard let output = SSL_get_wbio(ssl) else { return [] }
        let count = BIO_ctrl_pending(output)
        guard count > 0 else { return [] }
        return [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
            filled = Int(max(0, BIO_read(output, buffer.baseAddress, Int32(count))))
        }
    }

    /// Goes on with the handshake. `true` when it is done; `false` when more bytes are needed from the peer.
    package mutating func handshake() throws(TLSError) -> Bool {
        ERR_clear_error()
        let result = SSL_do_handshake(ssl)
        if result == 1 { return true }
        guard SSL_get_error(ssl, result) == SSL_ERROR_WANT_READ else { throw failure("the TLS handshake failed") }
        return false
    }

    /// Opens what has come in, as far as `buffer` goes. 0 when more bytes are needed; nil when the peer has closed.
    package mutating func read(into buffer: UnsafeMutableRawBufferPointer) throws(TLSError) -> Int? {
        ERR_clear_error()
        var count = 0
        let result = SSL_read_ex(ssl, buffer.baseAddress, buffer.count, &count)
        if result == 1 { return count }
        switch SSL_get_error(ssl, result) {
        case SSL_ERROR_WANT_READ: return 0
        case SSL_ERROR_ZERO_RETURN: return nil
        default: throw failure("a TLS record was refused")
        }
    }

    /// Seals bytes for the peer; `takeOutput` then has them.
    package mutating func write(_ bytes: UnsafeRawBufferPointer) throws(TLSError) {
        guard !bytes.isEmpty else { return }
        ERR_clear_error()
        var count = 0
        guard SSL_write_ex(ssl, bytes.baseAddress, bytes.count, &count) == 1, count == bytes.count else {
            throw failure("bytes could not be sealed for the peer")
        }
    }

    /// Tells the peer that nothing more will come.
    package mutating func shutdown() {
        ERR_clear_error()
        _ = SSL_shutdown(ssl)
    }

    /// Keying material that only the two ends of this connection can compute (RFC 8446 §7.5).
    package func export(label: String, context: [UInt8], count: Int = 32) -> SecretBytes {
        SecretBytes(count: count) { buffer in
            let done = SSL_export_keying_material(
                ssl, buffer.assumingMemoryBound(to: UInt8.self).baseAddress, buffer.count, label, label.utf8.count,
                context, context.count, 1)
            precondition(done == 1, "keying material was asked for before the handshake was done")
        }
    }

    /// SHA-256 of the peer's certificate in DER; nil before the handshake is done.
    package var peerCertificate: Digest? {
        guard let certificate = SSL_get1_peer_certificate(ssl) else { return nil }
        defer { X509_free(certificate) }
        return certificateDigest(certificate)
    }

    package var ownCertificate: Digest { context.certificate }

    private func failure(_ what: String) -> TLSError {
        let verification = SSL_get_verify_result(ssl)
        guard verification == Int(X509_V_OK) else {
            // The text is one of OpenSSL's fixed sentences about a certificate, such as "certificate has expired".
            return TLSError(.certificate, String(cString: X509_verify_cert_error_string(verification)))
        }
        return TLSError(.protocol, what)
    }
}

// A session has one owner, who moves it but never shares it; OpenSSL keeps no thread-local state in it.
extension TLSSession: @unchecked Sendable {}

/// Why a TLS connection is refused.
package struct TLSError: Error, Equatable, Sendable {
    package enum Code: String, Sendable { case certificate, `protocol`, malformed, unavailable }
    package let code: Code
    package let publicDescription: String

    init(_ code: Code, _ publicDescription: String) {
        self.code = code
        self.publicDescription = publicDescription
    }
}

/// What the sessions of one end share: its certificate and key, and the one authority whose certificates it accepts.
// SSL_CTX is only read after `init`; OpenSSL allows SSL_new on it from any thread.
package final class TLSContext: @unchecked Sendable {
    package enum Role: Sendable { case client, server }

    package let role: Role
    /// SHA-256 of the own certificate in DER.
    package let certificate: Digest
    fileprivate let pointer: OpaquePointer

    /// All three are PEM: one certificate, its private key, and the authority's certificate.
    package init(
        role: Role, certificate: [UInt8], privateKey: borrowing SecretBytes, authority: [UInt8]
    ) throws(TLSError) {
        guard let pointer = SSL_CTX_new(role == .client ? TLS_client_method() : TLS_server_method()) else {
            throw TLSError(.unavailable, "no memory for a TLS context")
        }
        self.role = role
        self.pointer = pointer
        do {
            self.certificate = try Self.configure(
                pointer, certificate: certificate, privateKey: privateKey, authority: authority)
        } catch {
            SSL_CTX_free(pointer)
            throw error
        }
    }

    deinit { SSL_CTX_free(pointer) }

    private static func configure(
        _ context: OpaquePointer, certificate: [UInt8], privateKey: borrowing SecretBytes, authority: [UInt8]
    ) throws(TLSError) -> Digest {
        guard let own = readCertificate(certificate) else {
            throw TLSError(.malformed, "the own certificate is not one PEM certificate")
        }
        defer { X509_free(own) }
        guard let root = readCertificate(authority) else {
            throw TLSError(.malformed, "the authority's certificate is not one PEM certificate")
        }
        defer { X509_free(root) }
        guard let key = privateKey.withBytes({ readKey($0) }) else {
            throw TLSError(.malformed, "the private key is not one PEM key")
        }
        defer { EVP_PKEY_free(key) }
        let version = Int(TLS1_3_VERSION)
        guard SSL_CTX_use_certificate(context, own) == 1, SSL_CTX_use_PrivateKey(context, key) == 1,
            SSL_CTX_check_private_key(context) == 1
        else { throw TLSError(.malformed, "the private key is not the certificate's") }
        guard X509_STORE_add_cert(SSL_CTX_get_cert_store(context), root) == 1,
            SSL_CTX_ctrl(context, SSL_CTRL_SET_MIN_PROTO_VERSION, version, nil) == 1,
            SSL_CTX_ctrl(context, SSL_CTRL_SET_MAX_PROTO_VERSION, version, nil) == 1,
            SSL_CTX_set_ciphersuites(context, "TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256") == 1,
            SSL_CTX_set_num_tickets(context, 0) == 1
        else { throw TLSError(.unavailable, "TLS 1.3 is not available") }
        _ = SSL_CTX_ctrl(context, SSL_CTRL_SET_SESS_CACHE_MODE, Int(SSL_SESS_CACHE_OFF), nil)
        SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nil)
        SSL_CTX_set_verify_depth(context, 1)
        return certificateDigest(own)
    }

    private static func readCertificate(_ pem: [UInt8]) -> OpaquePointer? {
        guard let source = BIO_new_mem_buf(pem, Int32(clamping: pem.count)) else { return nil }
        defer { BIO_free(source) }
        return PEM_read_bio_X509(source, nil, nil, nil)
    }

    private static func readKey(_ pem: UnsafeRawBufferPointer) -> OpaquePointer? {
        guard let source = BIO_new_mem_buf(pem.baseAddress, Int32(clamping: pem.count)) else { return nil }
        defer { BIO_free(source) }
        // The callback answers "no passphrase", so that an encrypted key is refused instead of asked for on a terminal.
        return PEM_read_bio_PrivateKey(source, nil, { _, _, _, _ in -1 }, nil)
    }
}

private func certificateDigest(_ certificate: OpaquePointer) -> Digest {
    let bytes = [UInt8](unsafeUninitializedCapacity: Digest.byteCount) { buffer, filled in
        var count: UInt32 = 0
        let done = X509_digest(certificate, EVP_sha256(), buffer.baseAddress, &count)
        precondition(done == 1 && count == Digest.byteCount, "SHA-256 of a certificate failed")
        filled = Digest.byteCount
    }
    return Digest(bytes)!
}
