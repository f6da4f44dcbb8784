internal import Sealing
package import Vocabulary

/// A stretch of host bytes that the device may reach: one store of sealed blocks, from its first byte on.
package struct Window: Hashable, Sendable {
    package typealias Direction = Program.Window.Direction
    package typealias Purpose = Program.Window.Purpose

    package static let byteCountMax: UInt64 = 1 << 46

    package let id: UInt16
    package let direction: Direction
    package let purpose: Purpose
    /// Sealed bytes: blocks of 65,552 back to back, the last may be shorter.
    package let byteCount: UInt64
    /// How long after its mapping the window is open; 0 for as long as the lease.
    package let lifetimeMilliseconds: UInt32

    package init(
        id: UInt16, direction: Direction, purpose: Purpose, byteCount: UInt64, lifetimeMilliseconds: UInt32 = 0
    ) {
        self.id = id
        self.direction = direction
        self.purpose = purpose
        self.byteCount = byteCount
        self.lifetimeMilliseconds = lifetimeMilliseconds
    }

    /// The stretch of sealed bytes that holds a program's window.
    package init(_ window: Program.Window, lifetimeMilliseconds: UInt32 = 0) {
        let blocks = (window.byteCount + Limits.blockBytes - 1) / Limits.blockBytes
        self.init(
            id: window.id, direction: window.direction, purpose: window.purpose,
            byteCount: UInt64(window.byteCount + blocks * Limits.tagBytes),
            lifetimeMilliseconds: lifetimeMilliseconds)
    }

    /// Whether a range of bytes is made of whole sealed blocks of this window.
    package func holdsBlocks(offset: UInt64, length: UInt64) -> Bool {
        let block = UInt64(Limits.sealedBlockBytes)
        guard length > UInt64(Limits.tagBytes), offset.isMultiple(of: block), offset < byteCount,
            length <= byteCount - offset
        else { return false }
        return length.isMultiple(of: block) || offset + length == byteCount
    }
}

/// All windows of a lease. Default deny: what is not in it cannot be reached. Its hash is in the trail before it is
/// mapped.
package struct WindowTable: Equatable, Sendable {
    package let windows: [Window]

    /// Takes windows in any order; ids must differ, and there are at most `Limits.windowsMax`.
    package init(_ windows: [Window]) throws(FrameError) {
        var writer = WireWriter()
        let sorted = windows.sorted { $0.id < $1.id }
        guard sorted.count <= Limits.windowsMax else { throw FrameError(.range, at: 0, "too many windows") }
        WindowTable(unchecked: sorted).write(into: &writer)
        var reader = WireReader(writer.bytes)
        self = try WindowTable(reading: &reader)
    }

    private init(unchecked windows: [Window]) { self.windows = windows }

    package subscript(id: UInt16) -> Window? { windows.first { $0.id == id } }

    /// SHA-256 over the table's canonical bytes.
    package var hash: Digest {
        var writer = WireWriter()
        writer.text("sekisho window table v1")
        write(into: &writer)
        return SHA256.hash(writer.bytes)
    }

    func write(into writer: inout WireWriter) {
        writer.integer(UInt16(windows.count))
        for window in windows {
            writer.integer(window.id)
            writer.integer(window.direction.rawValue)
            writer.integer(window.purpose.code)
            writer.integer(window.byteCount)
            writer.integer(window.lifetimeMilliseconds)
        }
    }

    init(reading reader: inout WireReader) throws(FrameError) {
        var windows: [Window] = []
        for _ in 0..<(try reader.integer(in: UInt16(0)...UInt16(Limits.windowsMax))) {
            let position = reader.position
            let id = try reader.integer(UInt16.self)
            guard windows.last.map({ $0.id < id }) ?? true else {
                throw FrameError(.order, at: position, "window ids do not ascend")
            }
            guard let direction = Window.Direction(rawValue: try reader.integer()) else {
                throw FrameError(.range, at: reader.position - 1, "an unknown window direction")
            }
            let purposeAt = reader.position
            guard let purpose = Window.Purpose(code: try reader.integer(), direction: direction)
            else { throw FrameError(.range, at: purposeAt, "a window purpose that its direction does not allow") }
            windows.append(
                Window(
                    id: id, direction: direction, purpose: purpose,
                    byteCount: try reader.integer(in: UInt64(Limits.tagBytes + 1)...Window.byteCountMax),
                    lifetimeMilliseconds: try reader.integer()))
        }
        self.windows = windows
    }
}

extension Program.Window.Direction {
    package var allowsReads: Bool { self != .write }
    package var allowsWrites: Bool { self != .read }
}

// The same numbers as in a program's bytes.
extension Program.Window.Purpose {
    fileprivate var code: UInt8 {
        switch self {
        case .image(let section): UInt8(section.rawValue)
        case .spill: 64
        case .result: 65
        case .state: 66
        }
    }

    fileprivate init?(code: UInt8, direction: Program.Window.Direction) {
        switch (code, direction) {
        case (64, .both): self = .spill
        case (65, .write): self = .result
        case (66, .read): self = .state
        case (_, .read):
            guard let section = ImageSection(rawValue: UInt32(code)) else { return nil }
            self = .image(section)
        default: return nil
        }
    }
}
