/// What each module may import, from the bottom up (DESIGN, "Rooms"). A new edge is a change of the design: it is
/// made here first, with its reason in the commit.
///
/// `standard` names what comes with the toolchain; pure modules have no clock, socket, file, log or randomness, so
/// they may not import `Glibc`, `Dispatch` or all of `Foundation`.
struct Room {
    let name: String
    let imports: Set<String>
    let packages: Set<String>
    let standard: Set<String>

    init(_ name: String, _ imports: Set<String> = [], packages: Set<String> = [], standard: Set<String> = []) {
        self.name = name
        self.imports = imports
        self.packages = packages
        self.standard = standard
    }
}

private let acting: Set<String> = ["Foundation", "FoundationEssentials", "Glibc", "Synchronization", "Dispatch"]

let rooms: [Room] = [
    // Nouns.
    Room("Vocabulary"),
    // Foundations.
    Room(
        // Crypto: the X-Wing key encapsulation of post-quantum age files, which neither C library has.
        "Sealing", ["CSodium", "COpenSSL", "CBlockAES", "Vocabulary"], packages: ["Crypto"],
        standard: ["Glibc", "Foundation", "FoundationEssentials", "Synchronization"]),
    Room("TransparencyLog", ["Vocabulary", "Sealing"]),
    Room("FabricProtocol", ["Vocabulary", "Sealing"]),
    // Whoever keeps durable files asks the disk through one protocol, so that one fake can tear all of them.
    Room("DurableFiles", standard: ["Glibc", "Synchronization"]),
    // What a process gives up once it serves: files, calls, sockets. The only room that meets libseccomp and Landlock.
    Room("Confinement", ["CConfinement"], standard: ["Glibc"]),
    Room("TrainingPlanner", ["Vocabulary"]),
    // Policies and specifications are read by one strict reader, which alone meets the YAML library.
    Room("StrictYAML", ["Vocabulary"], packages: ["Yams"]),
    Room("PolicyEngine", ["Vocabulary", "StrictYAML"]),
    // GA4GH Passports: visas are checked here, with keys that the caller fetched; jwt-kit verifies signatures only.
    Room("Passports", ["Vocabulary", "StrictYAML"], packages: ["JWTKit"], standard: ["FoundationEssentials"]),
    // Both ends of the fabric meet in their transport: sockets, the control connection and the sealed lanes.
    Room("FabricTransport", ["Vocabulary", "Sealing", "FabricProtocol", "DurableFiles"], standard: acting),
    // Parts.
    Room(
        "GraphVault", ["Vocabulary", "Sealing", "TransparencyLog", "DurableFiles"], packages: ["GRDB"], standard: acting
    ),
    Room("AuditTrail", ["Vocabulary", "Sealing", "TransparencyLog", "DurableFiles"], standard: acting),
    Room(
        "GPUFabric", ["Vocabulary", "Sealing", "TransparencyLog", "FabricProtocol", "FabricTransport"],
        packages: ["X509", "SwiftASN1", "Crypto"], standard: acting),
    Room(
        "DeviceNode",
        [
            "Vocabulary", "Sealing", "TransparencyLog", "Confinement", "FabricProtocol", "FabricTransport", "CKernels",
        ], standard: acting),
    Room(
        "Training", ["Vocabulary", "Sealing", "StrictYAML", "FabricProtocol", "TrainingPlanner"], standard: acting),
    // Story.
    Room(
        "Gateway",
        [
            "Vocabulary", "Sealing", "TransparencyLog", "FabricProtocol", "TrainingPlanner", "PolicyEngine",
            // The inventory of nodes is read by the reader of policies and specifications.
            "Passports", "StrictYAML", "DurableFiles", "GraphVault", "AuditTrail", "GPUFabric", "Training",
            // The trail's witnesses are asked over HTTP.
        ], packages: ["GRDB", "Mustache", "AsyncHTTPClient", "NIOCore", "NIOHTTP1"], standard: acting),
    // Doors.
    // The pages' files, embedded: text and nothing else.
    Room("WebResources"),
    Room(
        "WebAPI", ["Vocabulary", "Sealing", "Gateway", "WebResources"],
        packages: [
            "Hummingbird", "HummingbirdCore", "HummingbirdTLS", "HTTPTypes", "NIOCore", "NIOHTTP1",
            "NIOHTTPTypes", "NIOSSL", "Mustache", "Logging", "Metrics", "CoreMetrics", "ServiceLifecycle",
        ],
        standard: acting),
    Room(
        "sekisho", ["Vocabulary", "Gateway", "WebAPI"],
        packages: [
            "ArgumentParser", "AsyncHTTPClient", "NIOCore", "NIOHTTP1", "NIOSSL", "Configuration", "Logging",
            "ServiceLifecycle",
        ],
        standard: acting),
    Room(
        "sekisho-node", ["Vocabulary", "Confinement", "DeviceNode"], packages: ["ArgumentParser", "Logging"],
        standard: acting),
]

/// The only module that may import each C module.
let ownersOfC = [
    "CSodium": "Sealing", "COpenSSL": "Sealing", "CBlockAES": "Sealing", "CConfinement": "Confinement",
    "CKernels": "DeviceNode",
]

/// Modules whose whole import closure must stay free of these, however they are reached.
let unreachable: [(from: String, never: Set<String>)] = [
    ("TransparencyLog", ["GRDB", "Dispatch", "Yams", "X509", "CKernels"]),
    ("FabricProtocol", ["GRDB", "Dispatch", "Yams", "X509", "CKernels"]),
    ("TrainingPlanner", ["Sealing", "GRDB", "Dispatch", "Glibc", "Foundation", "Yams"]),
    ("StrictYAML", ["Sealing", "GRDB", "Dispatch", "Glibc"]),
    ("PolicyEngine", ["Sealing", "GRDB", "Dispatch", "Glibc"]),
    // The node never holds what only the enclave may know.
    ("sekisho-node", ["GraphVault", "AuditTrail", "PolicyEngine", "Gateway", "Training", "GRDB", "X509"]),
    // The standalone verifier needs no gateway.
    ("AuditTrail", ["GraphVault", "GPUFabric", "Training", "PolicyEngine", "GRDB"]),
]
