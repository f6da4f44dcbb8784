import FabricProtocol
import Sealing
import TestSupport
import Testing
import Vocabulary

@Suite struct LaneRecordTests {
    private static let key = [UInt8](repeating: 9, count: 32)

    private func sealer(
        _ fence: Fence = Fence(5), lane: UInt16 = 0, direction: LaneDirection = .toNode, key: [UInt8] = key
    ) -> LaneSealer {
        LaneSealer(key: SecretBytes(copying: key), lane: lane, direction: direction, fence: fence)
    }

    private func opener(_ fence: Fence = Fence(5), lane: UInt16 = 0, direction: LaneDirection = .toNode) -> LaneOpener {
        LaneOpener(key: SecretBytes(copying: Self.key), lane: lane, direction: direction, fence: fence)
    }

    private static let headers = [
        LaneHeader(.memoryRead, window: 3, offset: 65_552, length: 65_552 * 4, transaction: 17),
        LaneHeader(.completion, window: 3, offset: 65_552, length: 65_552, transaction: 17),
        LaneHeader(.memoryWrite, window: 4, offset: 0, length: 100, transaction: 18),
        LaneHeader(.credit, length: 64),
    ]

    @Test("records arrive in order, each once")
    func order() throws {
        var sealer = sealer()
        var opener = opener()
        for header in Self.headers + Self.headers {
            let record = try sealer.record(header)
            #expect(try opener.header(record) == header)
            #expect(throws: FrameError.self) { try opener.header(record) }
        }
    }

    @Test("a record that skips one is refused")
    func gap() throws {
        var sealer = sealer()
        var opener = opener()
        _ = try sealer.record(Self.headers[0])
        let second = try sealer.record(Self.headers[1])
        #expect(throws: FrameError.self) { try opener.header(second) }
    }

    @Test("another fence, lane, direction or key is refused")
    func context() throws {
        var stale = sealer(Fence(4))
        var lane = sealer(lane: 1)
        var direction = sealer(direction: .toGateway)
        var key = sealer(key: [UInt8](repeating: 8, count: 32))
        let records = [
            try stale.record(Self.headers[0]), try lane.record(Self.headers[0]), try direction.record(Self.headers[0]),
            try key.record(Self.headers[0]),
        ]
        for record in records {
            var opener = opener()
            #expect(throws: FrameError.self) { try opener.header(record) }
        }
    }

    @Test(
        "a genuine record with a field out of its range is refused",
        arguments: [
            LaneHeader(.memoryRead, window: 1, offset: 1, length: 65_552, transaction: 1),
            LaneHeader(.memoryRead, window: 1, offset: 0, length: 65_552 * 16 + 1, transaction: 1),
            LaneHeader(.memoryRead, window: 1, offset: 0, length: 16, transaction: 1),
            LaneHeader(.memoryRead, window: 1, offset: 65_552 << 45, length: 65_552, transaction: 1),
            LaneHeader(.memoryRead, window: 1, offset: 0, length: 65_552, transaction: 0),
            LaneHeader(.memoryWrite, window: 1, offset: 0, length: 65_553, transaction: 1),
            LaneHeader(.credit, length: 5000),
            LaneHeader(.credit, window: 1, length: 1), LaneHeader(.credit, offset: 65_552, length: 1),
        ])
    func ranges(header: LaneHeader) throws {
        var sealer = sealer()
        var opener = opener()
        let record = try sealer.record(header)
        #expect(throws: FrameError.self) { try opener.header(record) }
    }

    @Test("of 1,000,000 changed, repeated, early or stale records none is accepted", arguments: [UInt64(77)])
    func fuzz(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        var sealer = sealer()
        let past = try sealer.record(Self.headers[3])
        let records = try Self.headers.map { try sealer.record($0) }
        var staleSealer = self.sealer(Fence(4))
        _ = try staleSealer.record(Self.headers[3])
        let stale = try staleSealer.record(Self.headers[0])
        var opener = opener()
        #expect(try opener.header(past) == Self.headers[3])
        var accepted = 0
        for round in 0..<1_000_000 {
            let genuine = [records[0], past, stale, records[1 + round % 3]][round % 4]
            var record = round % 64 < 4 ? genuine : random.mutation(of: genuine)
            // The untouched next record is the one thing that is accepted.
            if record == records[0] { record[0] ^= 1 }
            if (try? opener.header(record)) != nil { accepted += 1 }
        }
        #expect(accepted == 0, "seed \(seed)")
        #expect(try opener.header(records[0]) == Self.headers[0])
    }
}

extension LaneSealer {
    mutating func record(_ header: LaneHeader) throws -> [UInt8] {
        let carries = header.operation == .completion || header.operation == .memoryWrite
        let tag = [UInt8](repeating: 0xAB, count: carries ? 16 : 0)
        var prefix = [UInt8](repeating: 0, count: LaneRecord.prefixBytes)
        try prefix.withUnsafeMutableBytes { prefix in
            try tag.withUnsafeBytes { try seal(header, blockTag: $0, into: prefix) }
        }
        return prefix
    }
}

extension LaneOpener {
    mutating func header(_ record: [UInt8]) throws -> LaneHeader { try record.withUnsafeBytes { try open($0) } }
}
