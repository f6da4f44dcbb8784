import FabricProtocol
import Foundation
import LocalTraining
import Sealing
import Training
import TrainingPlanner
import Vocabulary

/// Seconds of training epochs (forward, backward, Adam; no evaluation) on one graph, asked for line by line, so that a
/// script can interleave them with other systems' epochs.
final class EpochBench {
    private let folder: URL
    private let widths: [Int]
    private let threads: Int
    private var runs: [String: Run] = [:]
    private let key = SecretBytes.random(count: 32)

    private struct Run {
        let device: LocalDevice
        let program: UInt32
        let deviceBytes: Int
        var epoch: UInt32 = 0
    }

    init(_ arguments: [String]) throws {
        var arguments = arguments
        threads = Bench.option("--threads", &arguments) ?? 2
        guard arguments.count == 4, let features = Int(arguments[1]), let hidden = Int(arguments[2]),
            let classes = Int(arguments[3])
        else { throw BenchError(reason: "name the folder, features, hidden width and classes") }
        folder = URL(fileURLWithPath: arguments[0], isDirectory: true)
        widths = [features, hidden, classes]
    }

    func serve() async throws {
        while let line = readLine() {
            let words = line.split(separator: " ")
            guard words.count >= 2, let aggregation = Aggregation(rawValue: String(words[0])), let count = Int(words[1])
            else { throw BenchError(reason: "expected a model and a number of epochs") }
            let chunkRows = words.count > 2 ? Int(words[2]) : nil
            print(try await epochs(aggregation, count, chunkRows))
            fflush(nil)
        }
    }

    private func epochs(_ aggregation: Aggregation, _ count: Int, _ chunkRows: Int?) async throws -> String {
        let name = "\(aggregation)-\(chunkRows ?? 0)"
        var run: Run
        if let known = runs[name] { run = known } else { run = try await start(aggregation, chunkRows) }
        var seconds: [Double] = []
        var work = Completion.Work()
        for _ in 0..<count {
            let start = ContinuousClock.now
            work = try await ring(&run, .train).work
            seconds.append(start.duration(to: .now) / .seconds(1))
        }
        runs[name] = run
        let byOperation = work.byOperation.map { String(Double($0 / 1000) / 1000) }.joined(separator: ", ")
        return
            "{\"seconds\": \(seconds), \"deviceBytes\": \(run.deviceBytes), \"millisecondsByOperation\": [\(byOperation)]}"
    }

    private func start(_ aggregation: Aggregation, _ chunkRows: Int?) async throws -> Run {
        let spec = ModelSpec(
            model: aggregation, hidden: [widths[1]], dropout: Quantity(billionths: 500_000_000),
            weightDecay: Quantity(billionths: 500_000), epochs: 1)
        let graph = try PlainGraph(arrays: folder, features: widths[0], classes: widths[2])
        let image = try LocalImage(graph, recipe: spec.recipe, runKey: key)
        let budget = Budget(deviceBytes: 4 << 30, hostBytes: 4 << 30)
        let shape = spec.shape(features: widths[0], classes: widths[2])
        let plan =
            try chunkRows.map {
                try Planner.plan(model: shape, image: image.shape, budget: budget, cut: Cut(chunkRows: $0))
            } ?? Planner.plan(model: shape, image: image.shape, budget: budget)
        FileHandle.standardError.write(Data((plan.table + "\n").utf8))
        let program = try spec.program(for: plan)
        let device = try LocalDevice(image, memoryBytes: plan.forecast.deviceBytes, runKey: key, threads: threads)
        let number = try await device.load(try program.bytes(), windows: program.windows)
        var run = Run(device: device, program: number, deviceBytes: plan.forecast.deviceBytes)
        // The first epoch also fetches the image and makes the parameters.
        _ = try await ring(&run, [.first, .train])
        return run
    }

    private func ring(_ run: inout Run, _ flags: DoorbellFlags) async throws -> Completion {
        let arguments = DoorbellArguments(
            seed: 1, epoch: run.epoch, step: run.epoch + 1, learningRate: 0.01, flags: flags)
        run.epoch += 1
        return try Completion(parsing: try await run.device.ring(run.program, try arguments.bytes))
    }
}
