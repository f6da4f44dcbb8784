internal import FabricProtocol
internal import FabricTransport
internal import Vocabulary

/// What a node must still know after it was killed: its highest fence, whether that lease was scrubbed, and the
/// certificate of its last scrub.
struct NodeRecord: Equatable, Sendable {
    struct Lease: Equatable, Sendable {
        let run: RunID
        let lease: LeaseID
    }

    var fenceHighest = Fence(0)
    /// The lease under `fenceHighest`, until its scrub is certified.
    var open: Lease?
    var lastScrub: ScrubCertificate?

    static func load(_ folder: String) throws -> NodeRecord {
        guard let bytes = try DurableFile.read(path(folder)) else { return NodeRecord() }
        do {
            return try NodeRecord(parsing: bytes)
        } catch {
            // Guessing a fence could let a stale holder back in.
            throw NodeError(.state, "the node's record is damaged: \(error)")
        }
    }

    func save(_ folder: String) throws(TransportError) { try DurableFile.replace(Self.path(folder), with: bytes) }

    private static func path(_ folder: String) -> String { folder + "/node.record" }

    var bytes: [UInt8] {
        var writer = WireWriter()
        writer.text("sekisho node record 1")
        writer.integer(fenceHighest.number)
        writer.integer(UInt8(open == nil ? 0 : 1))
        if let open {
            writer.text(open.run.text)
            writer.text(open.lease.text)
        }
        writer.integer(UInt8(lastScrub == nil ? 0 : 1))
        if let lastScrub { writer.blob(lastScrub.bytes) }
        return writer.bytes
    }

    init() {}

    init(parsing bytes: [UInt8]) throws(FrameError) {
        var reader = WireReader(bytes)
        guard try reader.text(max: 64) == "sekisho node record 1" else {
            throw FrameError(.version, at: 0, "an unknown version")
        }
        fenceHighest = Fence(try reader.integer())
        if try reader.integer(UInt8.self, in: 0...1) == 1 {
            open = Lease(run: try reader.identifier(), lease: try reader.identifier())
        }
        if try reader.integer(UInt8.self, in: 0...1) == 1 {
            lastScrub = try ScrubCertificate(parsing: try reader.blob(max: 4096))
        }
        try reader.finish()
    }
}
