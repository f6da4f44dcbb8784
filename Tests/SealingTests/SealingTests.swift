import Sealing
import TestSupport
import Testing
import Vocabulary

private func hex(_ text: String) -> [UInt8] { Hex.decode(text.filter { !$0.isWhitespace })! }
private func secret(_ text: String) -> SecretBytes { SecretBytes(copying: hex(text)) }
private func bytes(_ secret: borrowing SecretBytes) -> [UInt8] { secret.withBytes { Array($0) } }

@Suite("Secrets")
struct SecretTests {
    @Test("a secret keeps its bytes, its clone too, and comparison tells them from others")
    func keeps() {
        let one = SecretBytes(copying: [1, 2, 3])
        #expect(bytes(one) == [1, 2, 3])
        let verdicts = [
            one.isEqual(to: one.clone()), one.isEqual(to: SecretBytes(copying: [1, 2, 4])),
            one.isEqual(to: SecretBytes(copying: [1, 2])),
            SecretBytes(copying: []).isEqual(to: SecretBytes(copying: [])),
        ]
        #expect(verdicts == [true, false, false, true])
    }

    @Test("a fill that throws makes no secret and passes its error on")
    func failingFill() {
        #expect(throws: SealingError.self) {
            _ = try SecretBytes(count: 8) { _ throws(SealingError) in throw SealingError(.malformed, "no") }
        }
    }

    @Test("random secrets differ")
    func random() { #expect(bytes(SecretBytes.random(count: 32)) != bytes(SecretBytes.random(count: 32))) }
}

@Suite("Hashes and derivation")
struct DerivationTests {
    @Test(
        "SHA-256 gives the values of FIPS 180-4",
        arguments: [
            ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
            ),
        ])
    func sha256(message: String, digest: String) {
        #expect(SHA256.hash(message).hex == digest)
        var stream = SHA256Stream()
        for byte in message.utf8 { stream.update(byte) }
        #expect(stream.finalize().hex == digest)
    }

    @Test(
        "HKDF gives the values of RFC 5869",
        arguments: [
            (
                "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b", "000102030405060708090a0b0c", "f0f1f2f3f4f5f6f7f8f9",
                "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
            ),
            (
                (0..<80).map { Hex.encode([UInt8($0)]) }.joined(),
                (0x60..<0xb0).map { Hex.encode([UInt8($0)]) }.joined(),
                (0xb0...0xff).map { Hex.encode([UInt8($0)]) }.joined(),
                "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"
            ),
            (
                "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b", "", "",
                "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
            ),
        ])
    func hkdf(key: String, salt: String, info: String, output: String) {
        let derived = KeyDerivation.hkdf(secret(key), salt: hex(salt), rawInfo: hex(info), count: output.count / 2)
        #expect(bytes(derived) == hex(output))
    }

    @Test("HKDF's name and context are kept apart by a zero byte")
    func hkdfInfo() {
        let key = SecretBytes(copying: [UInt8](repeating: 7, count: 32))
        let named = KeyDerivation.hkdf(key, info: "ab", context: [9])
        let raw = KeyDerivation.hkdf(key, salt: [], rawInfo: [0x61, 0x62, 0, 9], count: 32)
        #expect(bytes(named) == bytes(raw))
    }

    @Test("a key that is kept for many messages gives each the tag that it has by itself")
    func macKey() {
        for count in [0, 1, 31, 32, 63, 64] {
            let key = SecretBytes(copying: (0..<count).map { UInt8($0) })
            let kept = MACKey(key)
            for length in [0, 1, 24, 55, 56, 64, 1000] {
                let message = (0..<length).map { UInt8(truncatingIfNeeded: 7 &* $0) }
                let tag = kept.tag(message)
                #expect(tag == KeyDerivation.hmac(key, message), "\(count) \(length)")
            }
        }
    }

    @Test("HMAC gives the values of RFC 4231")
    func hmac() {
        #expect(
            KeyDerivation.hmac(secret("4a656665"), Array("what do ya want for nothing?".utf8))
                == hex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"))
        #expect(
            KeyDerivation.hmac(
                SecretBytes(copying: [UInt8](repeating: 0xaa, count: 131)),
                Array("Test Using Larger Than Block-Size Key - Hash Key First".utf8))
                == hex("60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"))
    }

    @Test("Argon2id gives the value of another implementation (pyca cryptography, one lane)")
    func argon2id() throws {
        // RFC 9106's own vector uses four lanes, which libsodium does not have.
        let key = try KeyDerivation.argon2id(
            passphrase: SecretBytes(copying: Array("correct horse battery staple".utf8)), salt: Array(0..<16),
            memoryBytes: 1 << 20, passes: 3)
        #expect(bytes(key) == hex("590d7ddd37a1ed86417a3614be47c9f782828a38902390018d39bb6556fee029"))
    }

    @Test("Argon2id refuses parameters that a changed header could ask for")
    func argonBounds() {
        let phrase = SecretBytes(copying: [1])
        for (salt, memory, passes) in [
            (15, 1 << 20, 1), (16, 1 << 40, 1), (16, 0, 1), (16, 1 << 20, 0), (16, 1 << 20, 1000),
        ] {
            #expect(throws: SealingError.self) {
                _ = try KeyDerivation.argon2id(
                    passphrase: phrase, salt: [UInt8](repeating: 0, count: salt), memoryBytes: memory, passes: passes)
            }
        }
    }

    @Test("a commitment is the hash of its name and the key")
    func commitment() {
        let key = [UInt8](repeating: 3, count: 32)
        #expect(
            KeyDerivation.commitment(SecretBytes(copying: key))
                == SHA256.hash(Array("sekisho key commitment v1".utf8) + key))
    }

    @Test("constant-time comparison is a comparison")
    func comparison() {
        #expect(constantTimeEqual([1, 2], [1, 2]) && constantTimeEqual([], []))
        #expect(!constantTimeEqual([1, 2], [1, 3]) && !constantTimeEqual([1], [1, 1]))
        var passing: [UInt8] = [1, 2, 3]
        wipe(&passing)
        #expect(passing == [0, 0, 0])
    }
}

@Suite("Ciphers")
struct CipherTests {
    // McGrew & Viega, "The Galois/Counter Mode of Operation", test cases 13–16 (AES-256).
    static let gcm: [(key: String, nonce: String, aad: String, plain: String, sealed: String)] = [
        (
            String(repeating: "00", count: 32), String(repeating: "00", count: 12), "", "",
            "530f8afbc74536b9a963b4f1c4cb738b"
        ),
        (
            String(repeating: "00", count: 32), String(repeating: "00", count: 12), "",
            "00000000000000000000000000000000",
            "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"
        ),
        (
            "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308", "cafebabefacedbaddecaf888",
            "feedfacedeadbeeffeedfacedeadbeefabaddad2",
            """
            d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa
            0de657ba637b39
            """,
            """
            522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393
            ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b
            """
        ),
    ]

    @Test("AES-256-GCM gives the published values, for blocks and for frames", arguments: gcm.indices)
    func published(index: Int) throws {
        let vector = Self.gcm[index]
        let nonceBytes = hex(vector.nonce)
        let nonce = BlockNonce(
            high: nonceBytes[..<4].reduce(0) { $0 << 8 | UInt32($1) },
            low: nonceBytes[4...].reduce(0) { $0 << 8 | UInt64($1) })
        let cipher = BlockCipher(key: secret(vector.key))
        #expect(try cipher.seal(hex(vector.plain), nonce: nonce, aad: hex(vector.aad)) == hex(vector.sealed))
        #expect(try cipher.open(hex(vector.sealed), nonce: nonce, aad: hex(vector.aad)) == hex(vector.plain))

        var frame = FrameCipher(key: secret(vector.key))
        let aad = hex(vector.aad)
        let plain = hex(vector.plain)
        var sealed = [UInt8](repeating: 0, count: plain.count + FrameCipher.tagBytes)
        for _ in 0..<2 {
            try sealed.withUnsafeMutableBytes { out in
                try plain.withUnsafeBytes { plain in
                    try nonceBytes.withUnsafeBytes { nonce in
                        try aad.withUnsafeBytes { try frame.seal(plain, nonce: nonce, aad: $0, into: out) }
                    }
                }
            }
            #expect(sealed == hex(vector.sealed))
        }
        var opened = plain.map { ~$0 }
        try opened.withUnsafeMutableBytes { out in
            try sealed.withUnsafeBytes { sealed in
                try nonceBytes.withUnsafeBytes { nonce in
                    try aad.withUnsafeBytes { try frame.open(sealed, nonce: nonce, aad: $0, into: out) }
                }
            }
        }
        #expect(opened == plain)
    }

    @Test("any change to a block, its nonce, its place or its length refuses it and leaves no plaintext")
    func changed() throws {
        var random = SeededRandom(seed: 11)
        let cipher = BlockCipher(key: SecretBytes.random(count: 32))
        let context = BlockContext(domain: "test", owner: "run-1", section: 2)
        let plain = random.bytes(300)
        let nonce = BlockNonce(high: 2, low: 5)
        let aad = context.aad(index: 5, length: plain.count)
        let sealed = try cipher.seal(plain, nonce: nonce, aad: aad)
        for index in sealed.indices {
            var broken = sealed
            broken[index] ^= 1 << UInt8.random(in: 0..<8, using: &random)
            var out = [UInt8](repeating: 0xEE, count: plain.count)
            let failure = out.withUnsafeMutableBytes { out in
                broken.withUnsafeBytes { broken in
                    Result { () throws(SealingError) in try cipher.open(broken, nonce: nonce, aad: aad, into: out) }
                }
            }
            #expect(throws: SealingError.self) { try failure.get() }
            #expect(out.allSatisfy { $0 == 0 })
        }
        let elsewhere = [
            context.aad(index: 6, length: 300), context.aad(index: 5, length: 299),
            BlockContext(domain: "test", owner: "run-2", section: 2).aad(index: 5, length: 300),
            BlockContext(domain: "test", owner: "run-1", section: 3).aad(index: 5, length: 300),
            BlockContext(domain: "tesT", owner: "run-1", section: 2).aad(index: 5, length: 300),
        ]
        for aad in elsewhere {
            #expect(throws: SealingError.self) { try cipher.open(sealed, nonce: nonce, aad: aad) }
        }
        #expect(throws: SealingError.self) { try cipher.open(sealed, nonce: BlockNonce(high: 2, low: 6), aad: aad) }
        #expect(try cipher.open(sealed, nonce: nonce, aad: aad) == plain)
    }

    @Test("a truncated block is refused", arguments: 0..<16)
    func truncated(length: Int) {
        let cipher = BlockCipher(key: SecretBytes.random(count: 32))
        #expect(throws: SealingError.self) {
            try cipher.open([UInt8](repeating: 0, count: length), nonce: BlockNonce(high: 0, low: 0), aad: [])
        }
    }

    @Test("blocks sealed by many threads at once all open")
    func threads() async throws {
        let cipher = BlockCipher(key: SecretBytes.random(count: 32))
        try await withThrowingTaskGroup(of: Bool.self) { group in
            for task in 0..<8 {
                group.addTask {
                    var good = true
                    for block in 0..<50 {
                        let plain = [UInt8](repeating: UInt8(block), count: 4_000)
                        let nonce = BlockNonce(high: UInt32(task), low: UInt64(block))
                        let sealed = try cipher.seal(plain, nonce: nonce, aad: [UInt8(task)])
                        good = try good && cipher.open(sealed, nonce: nonce, aad: [UInt8(task)]) == plain
                    }
                    return good
                }
            }
            for try await good in group { #expect(good) }
        }
    }

    @Test("a block's context has the documented bytes")
    func contextBytes() {
        #expect(
            BlockContext(domain: "d", owner: "run", section: 3).aad(index: 258, length: 65_536)
                == hex("64 00 72756e 00 00000003 0000000000000102 00010000"))
    }

    @Test("XChaCha20-Poly1305 gives the value of draft-irtf-cfrg-xchacha-03, A.3.1")
    func xchacha() throws {
        let plain = Array(
            """
            Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would \
            be it.
            """.utf8)
        let key = secret("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f")
        let nonce = hex("404142434445464748494a4b4c4d4e4f5051525354555657")
        let aad = hex("50515253c0c1c2c3c4c5c6c7")
        let sealed = hex(
            """
            bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c
            54c216cb96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff921f9664c97637da97688
            12f615c68b13b52ec0875924c1c7987947deafd8780acf49
            """)
        #expect(SmallCipher.seal(plain, key: key, nonce: nonce, aad: aad) == sealed)
        #expect(try SmallCipher.open(sealed, key: key, nonce: nonce, aad: aad) == plain)
        for index in sealed.indices {
            var broken = sealed
            broken[index] ^= 1
            #expect(throws: SealingError.self) { try SmallCipher.open(broken, key: key, nonce: nonce, aad: aad) }
        }
        #expect(throws: SealingError.self) { try SmallCipher.open(sealed, key: key, nonce: nonce, aad: []) }
        #expect(throws: SealingError.self) { try SmallCipher.open([1, 2], key: key, nonce: nonce, aad: aad) }
    }

    @Test("a sealed key opens only under its key and context")
    func sealedKey() throws {
        let key = SecretBytes.random(count: 32)
        let inner = SecretBytes.random(count: 32)
        let sealed = SmallCipher.sealSecret(inner, key: key, aad: [1])
        let opened = try SmallCipher.openSecret(noncePrefixed: sealed, key: key, aad: [1])
        #expect(bytes(opened) == bytes(inner))
        #expect(throws: SealingError.self) { _ = try SmallCipher.openSecret(noncePrefixed: sealed, key: key, aad: [2]) }
        #expect(throws: SealingError.self) { _ = try SmallCipher.openSecret(noncePrefixed: [1], key: key, aad: [1]) }
    }
}

@Suite("Keys")
struct KeyTests {
    @Test(
        "Ed25519 gives the values of RFC 8032, 7.1",
        arguments: [
            (
                "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
                "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
            ),
            (
                "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
                "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
            ),
            (
                "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
                "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", "af82",
                "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
            ),
        ])
    func ed25519(seed: String, publicKey: String, message: String, signature: String) throws {
        let key = try SigningKey(seed: secret(seed))
        #expect(key.verifyingKey.bytes == hex(publicKey))
        #expect(key.sign(hex(message)) == hex(signature))
        #expect(key.verifyingKey.isValid(hex(signature), for: hex(message)))
        #expect(!key.verifyingKey.isValid(hex(signature), for: hex(message) + [0]))
        #expect(!key.verifyingKey.isValid(Array(hex(signature).dropLast()), for: hex(message)))
        let copy = try key.withSeed { seed throws(SealingError) in try SigningKey(seed: seed) }
        #expect(copy.verifyingKey == key.verifyingKey)
    }

    @Test("the neutral point as a public key verifies nothing")
    func smallOrder() {
        let key = VerifyingKey(bytes: [1] + [UInt8](repeating: 0, count: 31))!
        #expect(!key.isValid([1] + [UInt8](repeating: 0, count: 63), for: []))
        #expect(VerifyingKey(bytes: []) == nil)
    }

    @Test("an X25519 key has the public half of RFC 7748, 6.1")
    func x25519() throws {
        let bob = try WrappingKey(secret: secret("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
        #expect(bob.publicKey.bytes == hex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"))
    }

    @Test("what is wrapped opens with the private half only")
    func wrapping() throws {
        let reader = WrappingKey.generate()
        let stranger = WrappingKey.generate()
        let key = SecretBytes.random(count: 32)
        let wrapped = reader.publicKey.wrap(key)
        #expect(wrapped.count == 32 + PublicWrappingKey.overheadBytes)
        let opened = try reader.unwrap(wrapped)
        #expect(bytes(opened) == bytes(key))
        #expect(throws: SealingError.self) { _ = try stranger.unwrap(wrapped) }
        for index in wrapped.indices {
            var broken = wrapped
            // The top bit of the sender's public key is ignored by X25519 itself.
            broken[index] ^= index == 31 ? 1 : 0x80
            #expect(throws: SealingError.self) { _ = try reader.unwrap(broken) }
        }
        #expect(throws: SealingError.self) { _ = try reader.unwrap([1, 2, 3]) }
    }

    @Test("a public key to which nothing can be wrapped is refused")
    func lowOrder() {
        #expect(PublicWrappingKey(bytes: [UInt8](repeating: 0, count: 32)) == nil)
        #expect(PublicWrappingKey(bytes: [1] + [UInt8](repeating: 0, count: 31)) == nil)
        #expect(PublicWrappingKey(bytes: [1]) == nil)
    }
}
