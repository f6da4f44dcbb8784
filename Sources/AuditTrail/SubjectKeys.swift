import DurableFiles
internal import Sealing
internal import Synchronization
import TransparencyLog
package import Vocabulary

/// What a record says about one person: sealed under that person's own key, which can be shredded, inside the record.
package struct SubjectSection: Hashable, Sendable {
    /// Who: a keyed hash, made by the gateway, that tells nothing to whoever lacks its key.
    package let pseudonym: Digest
    package let content: JSON

    package init(pseudonym: Digest, content: JSON) {
        self.pseudonym = pseudonym
        self.content = content
    }
}

extension Trail {
    /// What a section of the record at `index` says; `nil` once its subject is shredded.
    package func section(_ section: JSON, of core: JSON, at index: UInt64) throws(TrailError) -> JSON? {
        guard let sequence = core["sequence"]?.integerValue, sequence > 0 else {
            throw TrailError(.malformed, "a record has no sequence")
        }
        return try subjects.open(
            section, origin: identity.origin, era: try era(of: index), sequence: UInt64(sequence))
    }
}

/// The keys of subjects, on this host only: no reader of the trail has them, so that deleting one here makes the
/// subject's sections unreadable to everyone.
///
/// `keys/subjects.N.db` holds them, sealed under a key of its own in `keys/subjects.N.key`, which is sealed for this
/// host. A shred writes both anew without the one key and erases the old pair, so an older copy of the `.db` file, as
/// in a backup, opens with nothing. Backups leave the `.key` file out.
package final class SubjectKeys: Sendable {
    package static let subjectsMax = 100_000
    private static let entryBytes = 64
    private static let padding = 256

    private struct State: ~Copyable {
        var generation: UInt64 = 0
        /// `pseudonym 32 ‖ key 32` for each subject, in one piece of guarded memory.
        var table = SecretBytes(copying: [UInt8]())
        var places: [Digest: Int] = [:]
        var wrapping = SecretBytes.random(count: 32)
    }

    private let disk: any Disk
    private let hostKey: SecretBytes
    private let state: Mutex<State>

    /// Reads the newest whole generation and erases what a crash left of others.
    init(_ disk: any Disk, hostKey: borrowing SecretBytes) throws(TrailError) {
        self.disk = disk
        self.hostKey = hostKey.clone()
        state = Mutex(State())
        let numbers = try Self.io { () throws(DiskError) in try disk.names(in: EraKeyFile.folder) }
            .compactMap(Self.generation).sorted()
        // The key is written last and erased first: where there is one, the pair is whole.
        guard let newest = numbers.last else { return }
        try load(newest)
        for old in numbers.dropLast() { try eraseGeneration(old) }
        try removeOrphans(but: newest)
    }

    /// The number of subjects that have a key.
    package var count: Int { state.withLock { $0.places.count } }

    /// The section as a member of a record's core. A subject that is new gets a key first, durably.
    func seal(
        _ section: SubjectSection, origin: String, era: UInt64, sequence: UInt64
    ) throws(TrailError) -> JSON {
        var plaintext = section.content.canonical
        let length = UInt32(plaintext.count)
        plaintext = withUnsafeBytes(of: length.bigEndian) { Array($0) } + plaintext
        plaintext += [UInt8](
            repeating: 0, count: (Self.padding - plaintext.count % Self.padding) % Self.padding)
        let nonce = RandomBytes.array(SmallCipher.nonceBytes)
        let key = try key(for: section.pseudonym)
        let sealed = SmallCipher.seal(
            plaintext, key: key, nonce: nonce, aad: Self.aad(section.pseudonym, origin, era, sequence))
        return [
            "subject": .string(section.pseudonym.hex), "key": .string(KeyDerivation.commitment(key).hex),
            "sealed": .string(Hex.encode(nonce + sealed)),
        ]
    }

    /// The content of a record's section; `nil` once its subject is shredded.
    package func open(_ section: JSON, origin: String, era: UInt64, sequence: UInt64) throws(TrailError) -> JSON? {
        guard let pseudonym = section["subject"]?.stringValue.flatMap({ Digest(hex: $0) }),
            let sealed = section["sealed"]?.stringValue.flatMap(Hex.decode), sealed.count > SmallCipher.nonceBytes
        else { throw TrailError(.malformed, "a subject's section is not well formed") }
        guard let key = existingKey(of: pseudonym), section["key"]?.stringValue == KeyDerivation.commitment(key).hex
        else { return nil }
        do {
            let plaintext = try SmallCipher.open(
                Array(sealed[SmallCipher.nonceBytes...]), key: key, nonce: Array(sealed[..<SmallCipher.nonceBytes]),
                aad: Self.aad(pseudonym, origin, era, sequence))
            guard plaintext.count >= 4 else { throw TrailError(.damaged, "") }
            let length = Int(plaintext[..<4].reduce(0) { $0 << 8 | UInt32($1) })
            guard length <= plaintext.count - 4 else { throw TrailError(.damaged, "") }
            return try JSON(parsing: Array(plaintext[4..<4 + length]))
        } catch {
            throw TrailError(.damaged, "a subject's section does not open in its place")
        }
    }

    package func holdsKey(of pseudonym: Digest) -> Bool { state.withLock { $0.places[pseudonym] != nil } }

    /// Makes every section of a subject unreadable, here and in every copy of the trail. When this returns, neither the
    /// key nor what wrapped it is on the disk.
    package func shred(_ pseudonym: Digest) throws(TrailError) {
        let result = state.withLock { state -> Result<Void, TrailError> in
            guard let place = state.places[pseudonym] else {
                return .failure(TrailError(.notFound, "the trail has no key of this subject"))
            }
            return Result { () throws(TrailError) in
                let rest = state.table.withBytes { bytes in
                    SecretBytes(count: bytes.count - Self.entryBytes) { out in
                        out.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[..<place]))
                        UnsafeMutableRawBufferPointer(rebasing: out[place...]).copyMemory(
                            from: UnsafeRawBufferPointer(rebasing: bytes[(place + Self.entryBytes)...]))
                    }
                }
                try replace(&state, with: rest, isShred: true)
            }
        }
        try result.get()
    }

    // MARK: - Keys

    private func existingKey(of pseudonym: Digest) -> SecretBytes? {
        state.withLock { state -> SecretBytes? in
            guard let place = state.places[pseudonym] else { return nil }
            return Self.key(in: state.table, at: place)
        }
    }

    private static func key(in table: borrowing SecretBytes, at place: Int) -> SecretBytes {
        table.withBytes { SecretBytes(copying: UnsafeRawBufferPointer(rebasing: $0[(place + 32)..<(place + 64)])) }
    }

    private func key(for pseudonym: Digest) throws(TrailError) -> SecretBytes {
        if let key = existingKey(of: pseudonym) { return key }
        let result = state.withLock { state -> Result<Void, TrailError> in
            guard state.places[pseudonym] == nil else { return .success(()) }
            guard state.places.count < Self.subjectsMax else {
                return .failure(
                    TrailError(.malformed, "the trail has sections of \(Self.subjectsMax) subjects already"))
            }
            return Result { () throws(TrailError) in
                let longer = state.table.withBytes { old in
                    SecretBytes(count: old.count + Self.entryBytes) { out in
                        out.copyMemory(from: old)
                        let fresh = SecretBytes.random(count: 32)
                        out[old.count..<old.count + 32].copyBytes(from: pseudonym.bytes)
                        fresh.withBytes {
                            UnsafeMutableRawBufferPointer(rebasing: out[(old.count + 32)...]).copyMemory(from: $0)
                        }
                    }
                }
                try replace(&state, with: longer, isShred: false)
            }
        }
        try result.get()
        return existingKey(of: pseudonym)!
    }

    // MARK: - Files

    /// Writes a table and takes it over. A shred begins a new generation under a new key.
    private func replace(_ state: inout State, with table: consuming SecretBytes, isShred: Bool) throws(TrailError) {
        let old = state.generation
        let begins = isShred || old == 0
        let generation = begins ? old + 1 : old
        let wrapping = begins ? SecretBytes.random(count: 32) : state.wrapping.clone()
        let sealed = SmallCipher.sealSecret(table, key: wrapping, aad: Self.tableAAD(generation))
        try Self.io { () throws(DiskError) in
            try disk.replace(Self.database(generation), with: sealed, durable: true)
            guard begins else { return }
            let key = SmallCipher.sealSecret(wrapping, key: hostKey, aad: Self.keyAAD(generation))
            try disk.replace(Self.keyFile(generation), with: key, durable: true)
        }
        state.places = Self.places(in: table)
        state.table = table
        state.wrapping = wrapping
        state.generation = generation
        if begins, old > 0 { try eraseGeneration(old) }
    }

    private func load(_ generation: UInt64) throws(TrailError) {
        let files = try Self.io { () throws(DiskError) in
            (try disk.read(Self.keyFile(generation)), try disk.read(Self.database(generation)))
        }
        let damaged = TrailError(.damaged, "the keys of subjects do not open")
        guard let keyBytes = files.0, let tableBytes = files.1 else { throw damaged }
        do {
            let wrapping = try SmallCipher.openSecret(
                noncePrefixed: keyBytes, key: hostKey, aad: Self.keyAAD(generation))
            let table = try SmallCipher.openSecret(
                noncePrefixed: tableBytes, key: wrapping, aad: Self.tableAAD(generation))
            guard table.count.isMultiple(of: Self.entryBytes) else { throw damaged }
            let places = Self.places(in: table)
            state.withLock { state in
                state.generation = generation
                state.places = places
                state.table = table.clone()
                state.wrapping = wrapping.clone()
            }
        } catch { throw damaged }
    }

    private static func places(in table: borrowing SecretBytes) -> [Digest: Int] {
        table.withBytes { bytes in
            var places: [Digest: Int] = [:]
            for place in stride(from: 0, to: bytes.count, by: entryBytes) {
                places[Digest(bytes[place..<place + 32])!] = place
            }
            return places
        }
    }

    /// The key first: without it the rest is noise.
    private func eraseGeneration(_ generation: UInt64) throws(TrailError) {
        try Self.io { () throws(DiskError) in
            try disk.erase(Self.keyFile(generation))
            try disk.erase(Self.database(generation))
        }
    }

    private func removeOrphans(but newest: UInt64) throws(TrailError) {
        try Self.io { () throws(DiskError) in
            for name in try disk.names(in: EraKeyFile.folder)
            where name.hasPrefix("subjects.") && name != "subjects.\(newest).db" && name != "subjects.\(newest).key" {
                try disk.erase("\(EraKeyFile.folder)/\(name)")
            }
        }
    }

    private static func generation(_ name: String) -> UInt64? {
        guard name.hasPrefix("subjects."), name.hasSuffix(".key") else { return nil }
        return UInt64(name.dropFirst(9).dropLast(4))
    }

    private static func database(_ generation: UInt64) -> String { "\(EraKeyFile.folder)/subjects.\(generation).db" }
    private static func keyFile(_ generation: UInt64) -> String { "\(EraKeyFile.folder)/subjects.\(generation).key" }
    private static func tableAAD(_ generation: UInt64) -> [UInt8] { Array("sekisho subjects v1 \(generation)".utf8) }
    private static func keyAAD(_ generation: UInt64) -> [UInt8] { Array("sekisho subjects key v1 \(generation)".utf8) }

    /// A section cannot be moved to another place, log or person.
    private static func aad(_ pseudonym: Digest, _ origin: String, _ era: UInt64, _ sequence: UInt64) -> [UInt8] {
        Array("sekisho subject section v1".utf8) + [0] + pseudonym.bytes + Array("\(era)/\(sequence)/\(origin)".utf8)
    }

    private static func io<Value>(_ body: () throws(DiskError) -> Value) throws(TrailError) -> Value {
        do throws(DiskError) { return try body() } catch {
            throw error == .noSpace
                ? Trail.full : TrailError(.poisoned, "the keys of subjects could not be read or written")
        }
    }
}
