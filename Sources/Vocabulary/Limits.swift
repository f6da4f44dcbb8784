/// Bounds on everything that input can drive. One list, so that a reader can see them all.
package enum Limits {
    package static let identifierBytesMax = 128
    /// A sealed leaf of the trail (DESIGN parts, "Audit trail").
    package static let leafBytesMax = 16 * 1024
    package static let jsonDepthMax = 32
    package static let jsonBytesMax = 4 << 20
    package static let yamlBytesMax = 256 * 1024
    package static let yamlDepthMax = 16
    package static let yamlNodesMax = 10_000
    /// Plaintext bytes of one sealed block, in vault chunks, run images and spilled tensors alike.
    package static let blockBytes = 65_536
    package static let tagBytes = 16
    package static let sealedBlockBytes = blockBytes + tagBytes
    package static let controlFrameBytesMax = 1 << 20
    package static let programBytesMax = 1 << 20
    package static let programCommandsMax = 65_536
    package static let programBuffersMax = 4_096
    package static let windowsMax = 64
    /// Lanes of one attachment.
    package static let lanesMax = 4
    package static let nodesMax = 1 << 31
    package static let edgesMax = 1 << 36
    package static let featuresMax = 1 << 16
    package static let classesMax = 4_096
    /// Of a typed graph; each has a weight of its own in each layer and direction.
    package static let predicatesMax = 128
    package static let lineBytesMax = 1 << 20
}
