// swift-tools-version: 6.3
import PackageDescription

// Every Swift target is compiled under the same strict settings; see docs/architecture.md, "Walls".
let strict: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .treatAllWarnings(as: .error),
]

let crypto = Target.Dependency.product(name: "Crypto", package: "swift-crypto")
let cryptoExtras = Target.Dependency.product(name: "CryptoExtras", package: "swift-crypto")
let grdb = Target.Dependency.product(name: "GRDB", package: "GRDB.swift")
let yams = Target.Dependency.product(name: "Yams", package: "Yams")
let x509 = Target.Dependency.product(name: "X509", package: "swift-certificates")
let asn1 = Target.Dependency.product(name: "SwiftASN1", package: "swift-asn1")
let jwt = Target.Dependency.product(name: "JWTKit", package: "jwt-kit")
let mustache = Target.Dependency.product(name: "Mustache", package: "swift-mustache")
let arguments = Target.Dependency.product(name: "ArgumentParser", package: "swift-argument-parser")
let logging = Target.Dependency.product(name: "Logging", package: "swift-log")
let hummingbird = Target.Dependency.product(name: "Hummingbird", package: "hummingbird")
let hummingbirdTLS = Target.Dependency.product(name: "HummingbirdTLS", package: "hummingbird")
let hummingbirdCore = Target.Dependency.product(name: "HummingbirdCore", package: "hummingbird")
let httpTypes = Target.Dependency.product(name: "HTTPTypes", package: "swift-http-types")
let nioCore = Target.Dependency.product(name: "NIOCore", package: "swift-nio")
let nioHTTP1 = Target.Dependency.product(name: "NIOHTTP1", package: "swift-nio")
let nioHTTPTypes = Target.Dependency.product(name: "NIOHTTPTypes", package: "swift-nio-extras")
let nioSSL = Target.Dependency.product(name: "NIOSSL", package: "swift-nio-ssl")
let httpClient = Target.Dependency.product(name: "AsyncHTTPClient", package: "async-http-client")
let configuration = Target.Dependency.product(name: "Configuration", package: "swift-configuration")
let lifecycle = Target.Dependency.product(name: "ServiceLifecycle", package: "swift-service-lifecycle")
let metrics = Target.Dependency.product(name: "Metrics", package: "swift-metrics")
let coreMetrics = Target.Dependency.product(name: "CoreMetrics", package: "swift-metrics")

/// What pages are made of; it travels inside the binary.
let pageFiles: [Resource] = [
    .embedInCode("style.css"), .embedInCode("script.js"), .embedInCode("icon.svg"), .embedInCode("messages.en.json"),
    .embedInCode("messages.ja.json"), .embedInCode("templates"),
]

/// A room of the design. What it may import is listed here and held by `Tests/LayeringTests`.
func room(_ name: String, _ dependencies: [Target.Dependency] = [], resources: [Resource] = []) -> Target {
    .target(name: name, dependencies: dependencies, resources: resources, swiftSettings: strict)
}

/// - Parameter beside: folders of the tests' own files that are not Swift.
func tests(_ name: String, _ dependencies: [Target.Dependency], beside: [String] = []) -> Target {
    .testTarget(name: name, dependencies: dependencies + ["TestSupport"], exclude: beside, swiftSettings: strict)
}

let package = Package(
    name: "sekisho",
    products: [
        .executable(name: "sekisho", targets: ["sekisho"]),
        .executable(name: "sekisho-node", targets: ["sekisho-node"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-asn1", from: "1.7.4"),
        .package(url: "https://github.com/apple/swift-certificates", from: "1.21.1"),
        .package(url: "https://github.com/apple/swift-configuration", from: "1.4.0"),
        .package(url: "https://github.com/apple/swift-crypto", from: "4.5.2"),
        .package(url: "https://github.com/apple/swift-http-types", from: "1.5.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/apple/swift-metrics", from: "2.13.0"),
        .package(url: "https://github.com/apple/swift-nio", from: "2.92.0"),
        .package(url: "https://github.com/apple/swift-nio-extras", from: "1.29.0"),
        .package(url: "https://github.com/apple/swift-nio-ssl", from: "2.36.0"),
        .package(url: "https://github.com/groue/GRDB.swift", from: "7.10.0"),
        .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.1"),
        .package(url: "https://github.com/hummingbird-project/swift-mustache", from: "2.1.1"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
        .package(url: "https://github.com/swift-server/async-http-client", from: "1.37.0"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
        .package(url: "https://github.com/vapor/jwt-kit", from: "5.7.1"),
    ],
    targets: [
        // C: libraries through shims, and the portable kernels.
        .systemLibrary(name: "CSodium", pkgConfig: "libsodium", providers: [.apt(["libsodium-dev"])]),
        .systemLibrary(name: "COpenSSL", pkgConfig: "openssl", providers: [.apt(["libssl-dev"])]),
        .systemLibrary(name: "CConfinement", pkgConfig: "libseccomp", providers: [.apt(["libseccomp-dev"])]),
        .target(name: "CBlockAES", dependencies: [crypto]),
        .target(name: "CKernels", cSettings: [.unsafeFlags(["-O3", "-ffp-contract=off"])]),

        // Nouns.
        room("Vocabulary"),

        // Foundations.
        room("Sealing", ["CSodium", "COpenSSL", "CBlockAES", "Vocabulary", crypto]),
        room("TransparencyLog", ["Vocabulary", "Sealing"]),
        room("FabricProtocol", ["Vocabulary", "Sealing"]),
        room("FabricTransport", ["Vocabulary", "Sealing", "FabricProtocol", "DurableFiles"]),
        room("DurableFiles"),
        room("Confinement", ["CConfinement"]),
        room("TrainingPlanner", ["Vocabulary"]),
        room("StrictYAML", ["Vocabulary", yams]),
        room("PolicyEngine", ["Vocabulary", "StrictYAML"]),
        room("Passports", ["Vocabulary", "StrictYAML", jwt]),

        // Parts.
        room("GraphVault", ["Vocabulary", "Sealing", "TransparencyLog", "DurableFiles", grdb]),
        room("AuditTrail", ["Vocabulary", "Sealing", "TransparencyLog", "DurableFiles"]),
        room(
            "GPUFabric",
            ["Vocabulary", "Sealing", "TransparencyLog", "FabricProtocol", "FabricTransport", x509, asn1, crypto]),
        room(
            "DeviceNode",
            [
                "Vocabulary", "Sealing", "TransparencyLog", "Confinement", "FabricProtocol", "FabricTransport",
                "CKernels",
            ]),
        room("Training", ["Vocabulary", "Sealing", "StrictYAML", "FabricProtocol", "TrainingPlanner"]),

        // Story.
        room(
            "Gateway",
            [
                "Vocabulary", "Sealing", "TransparencyLog", "FabricProtocol", "TrainingPlanner", "PolicyEngine",
                "Passports", "StrictYAML", "DurableFiles", "GraphVault", "AuditTrail", "GPUFabric", "Training", grdb,
                mustache,
                httpClient,
                nioCore, nioHTTP1,
            ]),

        // Doors.
        // A room of its own because it compiles for seconds and changes seldom.
        room("WebResources", resources: pageFiles),
        room(
            "WebAPI",
            [
                "Vocabulary", "Sealing", "Gateway", "WebResources", hummingbird, hummingbirdCore, hummingbirdTLS,
                httpTypes, nioCore, nioHTTP1, nioHTTPTypes, nioSSL, mustache, logging, metrics, coreMetrics, lifecycle,
            ], resources: [.embedInCode("openapi.yaml")]),
        .executableTarget(
            name: "sekisho",
            dependencies: [
                "Vocabulary", "Gateway", "WebAPI", arguments, httpClient, nioCore, nioHTTP1, nioSSL, configuration,
                logging, lifecycle,
            ],
            swiftSettings: strict),
        .executableTarget(
            name: "sekisho-node", dependencies: ["Vocabulary", "Confinement", "DeviceNode", arguments, logging],
            swiftSettings: strict),
        // What a confined node tries to do, as a process of its own: started by the tests.
        .executableTarget(
            name: "confinement-probe", dependencies: ["Confinement", "DeviceNode"], path: "Tests/ConfinementProbe",
            swiftSettings: strict),

        // Benchmarks: the trainer with the node's executor in one process, and the program that measures with it.
        .target(
            name: "LocalTraining",
            dependencies: [
                "Vocabulary", "Sealing", "FabricProtocol", "TrainingPlanner", "Training", "DeviceNode",
            ], path: "Benchmarks/LocalTraining", swiftSettings: strict),
        .executableTarget(
            name: "sekisho-bench",
            dependencies: ["LocalTraining", "Vocabulary", "Sealing", "FabricProtocol", "TrainingPlanner", "Training"],
            path: "Benchmarks/sekisho-bench", swiftSettings: strict),

        // The audit trail's measurements, and the lives that its crash tests end.
        .executableTarget(
            name: "trail-bench",
            dependencies: ["AuditTrail", "DurableFiles", "TransparencyLog", "Sealing", "Vocabulary"],
            path: "Benchmarks/trail-bench", swiftSettings: strict),

        // The fabric between two processes, beside plain TCP and a network block device.
        .executableTarget(
            name: "fabric-bench",
            dependencies: [
                "GPUFabric", "DeviceNode", "FabricProtocol", "FabricTransport", "TransparencyLog", "Sealing",
                "Vocabulary",
            ], path: "Benchmarks/fabric-bench", swiftSettings: strict),

        // The policy engine's measurements, and pages of lists of a gateway with many requests.
        .executableTarget(
            name: "policy-bench",
            dependencies: ["Gateway", "PolicyEngine", "Sealing", "Vocabulary"], path: "Benchmarks/policy-bench",
            swiftSettings: strict),

        // Tests.
        .target(
            name: "TestSupport", dependencies: ["Vocabulary", "Sealing", "DurableFiles", crypto],
            path: "Tests/TestSupport",
            swiftSettings: strict),
        tests("LayeringTests", []),
        tests("VocabularyTests", ["Vocabulary"]),
        tests("SealingTests", ["Sealing", "Vocabulary"]),
        tests("TransparencyLogTests", ["TransparencyLog", "Sealing", "Vocabulary"]),
        tests("FabricProtocolTests", ["FabricProtocol", "Sealing", "Vocabulary"]),
        tests(
            "FabricTests",
            [
                "Confinement", "GPUFabric", "DeviceNode", "FabricProtocol", "FabricTransport", "TransparencyLog",
                "Sealing",
                "Vocabulary",
            ]),
        tests("ConfinementTests", ["Confinement"]),
        tests("TrainingPlannerTests", ["TrainingPlanner", "Vocabulary"]),
        tests("StrictYAMLTests", ["StrictYAML", "Vocabulary"]),
        tests("PolicyEngineTests", ["PolicyEngine", "Vocabulary"], beside: ["peers"]),
        tests("PassportsTests", ["Passports", "Vocabulary", crypto, cryptoExtras]),
        tests("GraphVaultTests", ["GraphVault", "TransparencyLog", "Sealing", "Vocabulary"]),
        tests("AuditTrailTests", ["AuditTrail", "TransparencyLog", "DurableFiles", "Sealing", "Vocabulary"]),
        tests("DeviceNodeTests", ["DeviceNode", "CKernels", "FabricProtocol", "Sealing", "Vocabulary"]),
        tests(
            "TrainingTests",
            [
                "Training", "TrainingPlanner", "LocalTraining", "DeviceNode", "FabricProtocol", "Sealing", "Vocabulary",
            ], beside: ["Vectors"]),
        tests(
            "GatewayTests",
            [
                "Gateway", "GraphVault", "AuditTrail", "DurableFiles", "GPUFabric", "PolicyEngine", "TransparencyLog",
                "TrainingPlanner", "Sealing", "Vocabulary", grdb, httpClient, nioCore, nioHTTP1, nioSSL,
            ], beside: ["Vectors"]),
        tests(
            "WebAPITests",
            [
                "WebAPI", "WebResources", "Gateway", "Sealing", "Vocabulary", httpClient, httpTypes, nioCore, nioHTTP1,
                nioSSL, logging, lifecycle, yams,
            ]),
    ]
)
