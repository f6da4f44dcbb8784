import Glibc
import Sealing
import Vocabulary

/// A stream of bytes sealed block by block, so that no block can be changed, moved, or left out unnoticed.
///
/// Plaintext is cut into `Limits.blockBytes`, the last block shorter; sealed block `i` lies at
/// `i × Limits.sealedBlockBytes`. The key is derived for the section, and the nonce and the associated data name owner,
/// section, block and length. A section's key is random per owner and each block is written once, so no nonce repeats.
struct SealedSection {
    /// What a section belongs to. The two strings keep keys and blocks of different kinds apart.
    struct Owner {
        let keyInfo: String
        let domain: String
        let name: String

        static func version(_ version: VersionID, of dataset: DatasetID) -> Owner {
            Owner(
                keyInfo: "sekisho vault section v1", domain: "sekisho-vault-v1", name: "\(dataset.text)/\(version.text)"
            )
        }

        /// What the device opens; these three names are part of the fabric's format.
        static func image(of run: RunID) -> Owner {
            Owner(keyInfo: "sekisho run image v1", domain: "sekisho-image-v1", name: run.text)
        }

        static func candidate(of run: RunID) -> Owner {
            Owner(keyInfo: "sekisho candidate v1", domain: "sekisho-candidate-v1", name: run.text)
        }
    }

    let number: UInt32
    let byteCount: Int
    /// Of the sealed bytes.
    let hash: Digest

    var sealedByteCount: Int { Self.sealedByteCount(byteCount) }

    static func sealedByteCount(_ byteCount: Int) -> Int {
        byteCount + (byteCount + Limits.blockBytes - 1) / Limits.blockBytes * Limits.tagBytes
    }

    static func fileName(_ number: UInt32) -> String { "section-\(number).sealed" }

    fileprivate static func cipher(_ key: borrowing SecretBytes, _ owner: Owner, _ number: UInt32) -> BlockCipher {
        let context = withUnsafeBytes(of: number.bigEndian) { Array($0) }
        return BlockCipher(key: KeyDerivation.hkdf(key, info: owner.keyInfo, context: context))
    }
}

/// Blocks in one read or write.
private let blocksAtOnce = 16

/// Writes one section into a new file; nothing is there until `finish`.
struct SectionWriter: ~Copyable {
    private let number: UInt32
    private let file: DurableFile
    private let cipher: BlockCipher
    private let context: BlockContext
    private var hash = SHA256Stream()
    private let plain = UnsafeMutableRawBufferPointer.allocate(byteCount: Limits.blockBytes, alignment: 64)
    private let sealed = UnsafeMutableRawBufferPointer.allocate(
        byteCount: blocksAtOnce * Limits.sealedBlockBytes, alignment: 64)
    private var plainCount = 0
    private var sealedCount = 0
    private var blockCount: UInt64 = 0
    private var byteCount = 0

    init(
        folder: Folder, number: UInt32, owner: SealedSection.Owner, key: borrowing SecretBytes
    ) throws(VaultError) {
        self.number = number
        file = try DurableFile(creating: SealedSection.fileName(number), in: folder)
        cipher = SealedSection.cipher(key, owner, number)
        context = BlockContext(domain: owner.domain, owner: owner.name, section: number)
    }

    deinit {
        plain.initializeMemory(as: UInt8.self, repeating: 0)
        plain.deallocate()
        sealed.deallocate()
    }

    mutating func write(_ bytes: UnsafeRawBufferPointer) throws {
        var rest = bytes
        // Whole blocks are sealed from where they lie.
        while !rest.isEmpty {
            if plainCount == 0, rest.count >= Limits.blockBytes {
                try seal(UnsafeRawBufferPointer(rebasing: rest[0..<Limits.blockBytes]))
                rest = UnsafeRawBufferPointer(rebasing: rest[Limits.blockBytes...])
            } else {
                let count = min(rest.count, Limits.blockBytes - plainCount)
                UnsafeMutableRawBufferPointer(rebasing: plain[plainCount..<plainCount + count])
                    .copyMemory(from: UnsafeRawBufferPointer(rebasing: rest[0..<count]))
                plainCount += count
                rest = UnsafeRawBufferPointer(rebasing: rest[count...])
                if plainCount == Limits.blockBytes { try sealPlain() }
            }
        }
    }

    mutating func write<Element: BitwiseCopyable>(_ elements: [Element]) throws {
        try elements.withUnsafeBytes { try write($0) }
    }

    /// Seals what is left and makes the file durable.
    consuming func finish() throws -> SealedSection {
        if plainCount > 0 { try sealPlain() }
        try flush()
        try file.sync()
        return SealedSection(number: number, byteCount: byteCount, hash: hash.finalize())
    }

    private mutating func sealPlain() throws {
        let count = plainCount
        plainCount = 0
        try seal(UnsafeRawBufferPointer(rebasing: plain[0..<count]))
    }

    private mutating func seal(_ block: UnsafeRawBufferPointer) throws {
        let space = UnsafeMutableRawBufferPointer(
            rebasing: sealed[sealedCount..<sealedCount + block.count + Limits.tagBytes])
        try cipher.seal(
            block, nonce: BlockNonce(high: number, low: blockCount),
            aad: context.aad(index: blockCount, length: block.count), into: space)
        blockCount += 1
        byteCount += block.count
        sealedCount += space.count
        if sealedCount + Limits.sealedBlockBytes > sealed.count { try flush() }
    }

    private mutating func flush() throws {
        let part = UnsafeRawBufferPointer(rebasing: sealed[0..<sealedCount])
        hash.update(part)
        try file.write(part)
        sealedCount = 0
    }
}

/// Opens one section from its start to its end.
struct SectionReader: ~Copyable {
    let byteCount: Int
    private let number: UInt32
    private let file: StoredFile
    private let cipher: BlockCipher
    private let context: BlockContext
    private let plain = UnsafeMutableRawBufferPointer.allocate(byteCount: Limits.blockBytes, alignment: 64)
    private let sealed = UnsafeMutableRawBufferPointer.allocate(
        byteCount: blocksAtOnce * Limits.sealedBlockBytes, alignment: 64)
    private var plainAt = 0
    private var plainCount = 0
    private var sealedAt = 0
    private var sealedCount = 0
    private var fileOffset = 0
    private var blockIndex: UInt64 = 0
    private var left: Int

    /// `byteCount` comes from the manifest: a file of another length is refused before anything is opened.
    init(
        folder: Folder, number: UInt32, byteCount: Int, owner: SealedSection.Owner, key: borrowing SecretBytes
    ) throws(VaultError) {
        self.number = number
        self.byteCount = byteCount
        left = byteCount
        file = try StoredFile(
            SealedSection.fileName(number), in: folder, byteCount: SealedSection.sealedByteCount(byteCount))
        cipher = SealedSection.cipher(key, owner, number)
        context = BlockContext(domain: owner.domain, owner: owner.name, section: number)
    }

    deinit {
        plain.initializeMemory(as: UInt8.self, repeating: 0)
        plain.deallocate()
        sealed.deallocate()
    }

    /// Fills all of `buffer`, which must not ask for more than is left.
    mutating func read(into buffer: UnsafeMutableRawBufferPointer) throws(VaultError) {
        var space = buffer
        while !space.isEmpty {
            if plainAt < plainCount {
                let count = min(space.count, plainCount - plainAt)
                space.copyMemory(from: UnsafeRawBufferPointer(rebasing: plain[plainAt..<plainAt + count]))
                plainAt += count
                space = UnsafeMutableRawBufferPointer(rebasing: space[count...])
            } else if space.count >= min(left, Limits.blockBytes) {
                let count = min(left, Limits.blockBytes)
                try openBlock(into: UnsafeMutableRawBufferPointer(rebasing: space[0..<count]))
                space = UnsafeMutableRawBufferPointer(rebasing: space[count...])
            } else {
                plainCount = min(left, Limits.blockBytes)
                plainAt = 0
                try openBlock(into: UnsafeMutableRawBufferPointer(rebasing: plain[0..<plainCount]))
            }
        }
    }

    /// The whole section as numbers of one type.
    mutating func readAll<Element: BitwiseCopyable>(of type: Element.Type = Element.self) throws -> [Element] {
        let stride = MemoryLayout<Element>.stride
        guard byteCount.isMultiple(of: stride), left == byteCount else {
            throw VaultError(.tampered, "a section does not hold whole numbers")
        }
        return try Array(unsafeUninitializedCapacity: byteCount / stride) { buffer, count in
            try read(into: UnsafeMutableRawBufferPointer(buffer))
            count = byteCount / stride
        }
    }

    private mutating func openBlock(into space: UnsafeMutableRawBufferPointer) throws(VaultError) {
        precondition(!space.isEmpty && space.count <= left, "more bytes asked for than the section has")
        if sealedAt == sealedCount {
            sealedCount = min(sealed.count, SealedSection.sealedByteCount(byteCount) - fileOffset)
            try file.read(at: fileOffset, into: UnsafeMutableRawBufferPointer(rebasing: sealed[0..<sealedCount]))
            fileOffset += sealedCount
            sealedAt = 0
        }
        let block = UnsafeRawBufferPointer(rebasing: sealed[sealedAt..<sealedAt + space.count + Limits.tagBytes])
        do throws(SealingError) {
            try cipher.open(
                block, nonce: BlockNonce(high: number, low: blockIndex),
                aad: context.aad(index: blockIndex, length: space.count), into: space)
        } catch {
            throw VaultError(.tampered, "block \(blockIndex) of section \(number) is not what was sealed")
        }
        blockIndex += 1
        sealedAt += block.count
        left -= space.count
    }
}
