package import Vocabulary

/// What a node must still know after it was killed: its highest fence, whether that lease was scrubbed, and the
/// certificate of its last scrub.
package struct NodeRecord: Equatable, Sendable {
    package struct Lease: Equatable, Sendable {
        package let run: RunID
        package let lease: LeaseID

        package init(run: RunID, lease: LeaseID) {
            self.run = run
            self.lease = lease
        }
    }

    package var fenceHighest = Fence(0)
    /// The lease under `fenceHighest`, until its scrub is certified.
    package var open: Lease?
    package var lastScrub: ScrubCertificate?

    package init() {}

    package var bytes: [UInt8] {
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

    package init(parsing bytes: [UInt8]) throws(FrameError) {
        var reader = WireReader(bytes)
        guard try reader.text(max: 64) == "sekisho node record 1" else {
            throw FrameError(.version, at: 0, "an unknown version")
        }
        fenceHighest = Fence(try reader.integer())
        if try reader.integer(UInt8.self, in: 0...1) == 1 {
            open = Lease(run: try reader.identifier(), lease: try reader.identifier())
        }
        if try reader.integer(UInt8.self, in: 0...1) == 1 {
            lastScrub = try ScrubCertificate(reading: &reader)
        }
        try reader.finish()
    }
}
