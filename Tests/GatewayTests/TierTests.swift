import Foundation
import GPUFabric
import Gateway
import TestSupport
import Testing
import TrainingPlanner
import Vocabulary

/// What a plan stands on: the SSD tier's file, the rates that were measured, and the plan before a run.
@Suite struct TierTests {
    @Test(
        "the SSD tier gives back what was put away, block by block, and nothing beyond its end",
        arguments: [UInt64(1), 2])
    func spillFile(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("spill-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        let blocks = 37
        // The last block is short.
        let count = blocks * Limits.sealedBlockBytes - 1000
        let file = try SpillFile(folder: folder.path, byteCount: count)
        // Nobody can open it by name.
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path).isEmpty)
        var plain = [UInt8](repeating: 0, count: count)
        for _ in 0..<60 {
            let first = Int.random(in: 0..<blocks, using: &random)
            let lower = first * Limits.sealedBlockBytes
            let upper = min(Int.random(in: first + 1...blocks, using: &random) * Limits.sealedBlockBytes, count)
            if Bool.random(using: &random) {
                let bytes = random.bytes(upper - lower)
                plain.replaceSubrange(lower..<upper, with: bytes)
                try bytes.withUnsafeBytes { try file.write(offset: lower, from: $0) }
            } else {
                var bytes = [UInt8](repeating: 1, count: upper - lower)
                try bytes.withUnsafeMutableBytes { try file.read(offset: lower, into: $0) }
                #expect(bytes.elementsEqual(plain[lower..<upper]), "seed \(seed)")
            }
        }
        var buffer = [UInt8](repeating: 0, count: Limits.sealedBlockBytes)
        for offset in [
            -Limits.sealedBlockBytes, 1, (blocks - 1) * Limits.sealedBlockBytes, blocks * Limits.sealedBlockBytes,
        ] {
            let error = #expect(throws: FabricError.self) {
                try buffer.withUnsafeMutableBytes { try file.read(offset: offset, into: $0) }
            }
            #expect(error?.code == .outsideWindow, "\(offset)")
            #expect(throws: FabricError.self) {
                try buffer.withUnsafeBytes { try file.write(offset: offset, from: $0) }
            }
        }
        let missing = #expect(throws: FabricError.self) {
            try SpillFile(folder: folder.path + "/none", byteCount: count)
        }
        #expect(missing?.code == .store)
    }

    @Test("recorded rates give the same budget again, and what was not measured stays usual")
    func measuredRates() {
        let json: JSON = [
            "bytes_per_second": 250_000_000, "rtt_nanoseconds": 400_000, "product_flops_per_second": 90_000_000_000,
            "wide_gather_bytes_per_second": 20_000_000_000, "narrow_gather_bytes_per_second": 4_000_000_000,
            "copy_bytes_per_second": 6_000_000_000, "gradient_flops_per_second": 70_000_000_000,
            "scored_edges_per_second": 100_000_000, "attended_edges_per_second": 10_000_000,
            "drop_elements_per_second": 2_000_000_000, "map_elements_per_second": 7_000_000_000,
            "loss_elements_per_second": 900_000_000,
            "commands_per_second": 110_000, "open_bytes_per_second": 2_400_000_000, "threads": 2, "cores": 4,
            "ssd_read_bytes_per_second": 700_000_000,
            "ssd_write_bytes_per_second": 300_000_000,
        ]
        let rates = MeasuredRates(json: json)
        #expect(rates.json == json)
        let budget = rates.budget(deviceBytes: 1 << 30, hostBytes: 7, ssdBytes: 8)
        #expect(budget == MeasuredRates(json: rates.json).budget(deviceBytes: 1 << 30, hostBytes: 7, ssdBytes: 8))
        #expect(budget.deviceBytes == 1 << 30 && budget.hostBytes == 7 && budget.ssdBytes == 8)
        #expect(budget.link.bytesPerSecond == 2.5e8 && abs(budget.link.roundTripSeconds - 4e-4) < 1e-12)
        #expect(budget.device.productFlopsPerSecond == 9e10 && budget.device.streamBytesPerSecond == 1.2e10)
        #expect(budget.ssd.readBytesPerSecond == 7e8 && budget.ssd.writeBytesPerSecond == 3e8)
        #expect(budget.device.gradientFlopsPerSecond == 7e10 && budget.device.secondsPerCommand > 9e-6)
        #expect(budget.device.threads == 2 && !budget.device.sealsOnComputeCores)
        #expect(budget.link.sealBytesPerSecond == 2.4e9)
        // A row of 1 KiB and one of 32 bytes cost what was measured, and an edge with attention what is beyond them.
        #expect(
            abs(
                budget.device.secondsPerAttendedEdge - (1e-7 - 64 / budget.device.gatherBytesPerSecond)) < 1e-15)
        for (bytes, rate) in [(1024.0, 2e10), (32, 4e9)] {
            let seconds = bytes / budget.device.gatherBytesPerSecond + budget.device.secondsPerEdge
            #expect(abs(seconds - bytes / rate) < 1e-12)
        }
        for bad in [[:], ["bytes_per_second": -3, "product_flops_per_second": "fast"], .null] as [JSON] {
            let none = MeasuredRates(json: bad)
            #expect(none.json == [:])
            #expect(none.budget(deviceBytes: 1, hostBytes: 1, ssdBytes: 1).device == DeviceRates())
        }
    }

    private static let specification = """
        model: sage
        hidden: [64]
        dropout: 0.5
        learning_rate: 0.01
        weight_decay: 5e-4
        weight_decay_layers: first
        epochs: 10
        features: none
        """

    private static var sizes: PlanPreview.Sizes {
        var sizes = PlanPreview.Sizes()
        (sizes.nodes, sizes.edges, sizes.features, sizes.classes) = (200_000, 2_000_000, 100, 12)
        sizes.deviceBytes = 1 << 40
        return sizes
    }

    @Test("a plan can be seen before any run, at any device memory; what cannot fit is refused with the bytes it needs")
    func preview() throws {
        var sizes = Self.sizes
        let whole = try PlanPreview(specification: Self.specification, sizes: sizes)
        let bytes = try #require(whole.json["forecast"]?["deviceBytes"]?.integerValue)
        #expect(whole.json["forecast"]?["fetchedBytesPerEpoch"] == 0)
        #expect(whole.table.contains("tensors:") && whole.table.contains("why:"))
        for share in [2, 4, 10, 20] {
            sizes.deviceBytes = Int(bytes) / share
            let plan = try PlanPreview(specification: Self.specification, sizes: sizes)
            #expect(try #require(plan.json["forecast"]?["deviceBytes"]?.integerValue) <= bytes / Int64(share))
        }
        sizes.deviceBytes = 100_000
        let refusal = #expect(throws: GatewayError.self) {
            try PlanPreview(specification: Self.specification, sizes: sizes)
        }
        #expect(refusal?.code == .refused)
        #expect(refusal?.publicDescription.contains("bytes of device memory") == true)
    }

    @Test("sizes that no graph has and specifications that no model has are refused")
    func badPreview() throws {
        let changes: [(inout PlanPreview.Sizes) -> Void] = [
            { $0.nodes = 0 }, { $0.edges = -1 }, { $0.features = 0 }, { $0.features = Limits.featuresMax + 1 },
            { $0.classes = 0 }, { $0.deviceBytes = 0 }, { $0.hostBytes = -1 }, { $0.linkBytesPerSecond = 0 },
            { $0.predicates = 0 }, { $0.nodes = Limits.nodesMax + 1 },
        ]
        for (number, change) in changes.enumerated() {
            var sizes = Self.sizes
            change(&sizes)
            let error = #expect(throws: GatewayError.self, "\(number)") {
                try PlanPreview(specification: Self.specification, sizes: sizes)
            }
            #expect(error?.code == .usage)
        }
        let error = #expect(throws: GatewayError.self) {
            try PlanPreview(
                specification: Self.specification.replacingOccurrences(of: "hidden", with: "hiden"), sizes: Self.sizes)
        }
        #expect(error?.code == .usage && error?.publicDescription.contains("hid") == true)
    }

    @Test("the picture of memory by tier has a bar for each pass and tier that holds something, as wide as its time")
    func picture() throws {
        let plan: JSON = [
            "passes": [
                [
                    "title": "train: <features>", "microseconds": 300, "deviceBytes": 1000, "hostBytes": 500,
                    "ssdBytes": 0,
                ],
                [
                    "title": "evaluate", "microseconds": 100, "deviceBytes": 2000, "hostBytes": 0, "ssdBytes": 0,
                ],
            ]
        ]
        let svg = Picture.memory(ofPlan: plan).standalone
        #expect(svg.components(separatedBy: "<rect").count - 1 == 3)
        #expect(svg.contains("train: &lt;features&gt;") && !svg.contains("<features>"))
        for tier in ["device", "host", "SSD"] { #expect(svg.contains(">\(tier)<")) }
        let widths = svg.components(separatedBy: "width=\"").dropFirst().compactMap { Double($0.prefix { $0 != "\"" }) }
        let bars = widths.filter { $0 > 1 }
        #expect(bars.count == 3 && abs(bars[0] / bars[1] - 3) < 0.02)
        #expect(svg.contains("<style>") && svg.hasPrefix("<svg") && svg.hasSuffix("</svg>"))
        // Nothing to show is shown as nothing.
        #expect(!Picture.memory(ofPlan: [:]).svg.contains("<rect"))
    }
}
