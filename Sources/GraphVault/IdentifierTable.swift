/// Texts numbered in order of arrival: node ids to rows, words to codes.
///
/// One byte buffer and one open-addressed table, so that 10^8 ids cost no 10^8 objects. The hash is seeded afresh for
/// each table, so that nobody can prepare ids that collide.
struct IdentifierTable {
    /// All texts back to back; text `i` is `bytes[ends[i]..<ends[i + 1]]`.
    private(set) var bytes: [UInt8] = []
    private(set) var ends: [Int] = [0]
    // High half: part of the hash. Low half: number + 1. Zero: free. At most half are taken.
    private var slots: [UInt64]
    private let seed: UInt64

    init() {
        slots = Array(repeating: 0, count: 1024)
        seed = UInt64.random(in: 0 ... .max)
    }

    var count: Int { ends.count - 1 }

    /// The number of `text`, which is new if it was not there before.
    mutating func insert(_ text: UnsafeRawBufferPointer) -> (number: Int, isNew: Bool) {
        let hash = hash(text)
        var slot = Int(truncatingIfNeeded: hash) & (slots.count - 1)
        while slots[slot] != 0 {
            if let number = match(slots[slot], hash, text) { return (number, false) }
            slot = (slot + 1) & (slots.count - 1)
        }
        let number = count
        bytes.append(contentsOf: text)
        ends.append(bytes.count)
        slots[slot] = hash & 0xFFFF_FFFF_0000_0000 | UInt64(number + 1)
        if count * 2 > slots.count { grow() }
        return (number, true)
    }

    func number(of text: UnsafeRawBufferPointer) -> Int? {
        let hash = hash(text)
        var slot = Int(truncatingIfNeeded: hash) & (slots.count - 1)
        while slots[slot] != 0 {
            if let number = match(slots[slot], hash, text) { return number }
            slot = (slot + 1) & (slots.count - 1)
        }
        return nil
    }

    func text(_ number: Int) -> String { String(decoding: bytes[ends[number]..<ends[number + 1]], as: UTF8.self) }

    private func match(_ slot: UInt64, _ hash: UInt64, _ text: UnsafeRawBufferPointer) -> Int? {
        guard (slot ^ hash) >> 32 == 0 else { return nil }
        let number = Int(slot & 0xFFFF_FFFF) - 1
        let start = ends[number]
        guard ends[number + 1] - start == text.count else { return nil }
        return bytes.withUnsafeBytes {
            sameBytes($0.baseAddress! + start, text.baseAddress!, text.count) ? number : nil
        }
    }

    private mutating func grow() {
        var larger = Array(repeating: UInt64(0), count: slots.count * 2)
        let mask = larger.count - 1
        bytes.withUnsafeBytes { all in
            for number in 0..<count {
                let hash = hash(UnsafeRawBufferPointer(rebasing: all[ends[number]..<ends[number + 1]]))
                var slot = Int(truncatingIfNeeded: hash) & mask
                while larger[slot] != 0 { slot = (slot + 1) & mask }
                larger[slot] = hash & 0xFFFF_FFFF_0000_0000 | UInt64(number + 1)
            }
        }
        slots = larger
    }

    // Multiply-and-fold over 8-byte words, as in wyhash (Wang Yi, public domain).
    private func hash(_ text: UnsafeRawBufferPointer) -> UInt64 {
        var state = seed ^ UInt64(text.count) &* 0x9E37_79B9_7F4A_7C15
        var offset = 0
        while offset + 8 <= text.count {
            state = fold(state ^ text.loadUnaligned(fromByteOffset: offset, as: UInt64.self), 0xA076_1D64_78BD_642F)
            offset += 8
        }
        var tail: UInt64 = 0
        while offset < text.count {
            tail = tail << 8 | UInt64(text[offset])
            offset += 1
        }
        return fold(fold(state ^ tail, 0xE703_7ED1_A0B4_28DB), 0x8EBC_6AF0_9C88_C6E3)
    }

    private func fold(_ left: UInt64, _ right: UInt64) -> UInt64 {
        let product = left.multipliedFullWidth(by: right)
        return product.high ^ product.low
    }
}

private func sameBytes(_ left: UnsafeRawPointer, _ right: UnsafeRawPointer, _ count: Int) -> Bool {
    var offset = 0
    while offset + 8 <= count {
        if left.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
            != right.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
        {
            return false
        }
        offset += 8
    }
    while offset < count {
        if left.load(fromByteOffset: offset, as: UInt8.self) != right.load(fromByteOffset: offset, as: UInt8.self) {
            return false
        }
        offset += 1
    }
    return true
}
