internal import FabricProtocol
internal import FabricTransport

/// Where a node keeps its record.
extension NodeRecord {
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
}
