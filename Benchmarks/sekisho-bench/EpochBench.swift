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
        let forecast: TrainingPlan.Forecast
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

    /// What one line asks for: `gcn 3 rows=4096 memory=50 evaluate`, all but the first two words optional.
    private struct Question {
        let aggregation: Aggregation
        let epochs: Int
        /// Rows of a chunk; the planner's choice without.
        var rows: Int?
        /// Device memory in percent of what everything resident takes.
        var memoryPercent: Int?
        var evaluates = false

        init(_ line: String) throws {
            let words = line.split(separator: " ")
            guard words.count >= 2, let aggregation = Aggregation(rawValue: String(words[0])),
                let epochs = Int(words[1])
            else { throw BenchError(reason: "expected a model and a number of epochs") }
            self.aggregation = aggregation
            self.epochs = epochs
            for word in words.dropFirst(2) {
                let parts = word.split(separator: "=")
                switch (parts.first, parts.count == 2 ? Int(parts[1]) : nil) {
                case ("rows", let value?): rows = value
                case ("memory", let value?): memoryPercent = value
                case ("evaluate", nil): evaluates = true
                default: throw BenchError(reason: "unknown option \(word)")
                }
            }
        }

        var name: String { "\(aggregation) \(rows ?? 0) \(memoryPercent ?? 100)" }
    }

    func serve() async throws {
        while let line = readLine() {
            print(try await answer(Question(line)))
            fflush(nil)
        }
    }

    private func answer(_ question: Question) async throws -> String {
        var run: Run
        if let known = runs[question.name] { run = known } else { run = try await start(question) }
        var seconds: [Double] = []
        var work = Completion.Work()
        for _ in 0..<question.epochs {
            let start = ContinuousClock.now
            work = try await ring(&run, question.evaluates ? [.train, .evaluate] : .train).work
            seconds.append(start.duration(to: .now) / .seconds(1))
        }
        runs[question.name] = run
        let byOperation = work.byOperation.map { String(Double($0 / 1000) / 1000) }.joined(separator: ", ")
        let forecast = run.forecast
        return """
            {"seconds": \(seconds), "forecastSeconds": \(forecast.secondsPerEpoch), \
            "deviceBytes": \(forecast.deviceBytes), "fetchedBytes": \(work.fetchedBytes), \
            "storedBytes": \(work.storedBytes), "millisecondsByOperation": [\(byOperation)]}
            """
    }

    private func start(_ question: Question) async throws -> Run {
        let spec = ModelSpec(
            model: question.aggregation, hidden: [widths[1]], dropout: Quantity(billionths: 500_000_000),
            weightDecay: Quantity(billionths: 500_000), epochs: 1)
        let graph = try PlainGraph(arrays: folder, features: widths[0], classes: widths[2])
        let image = try LocalImage(graph, recipe: spec.recipe, runKey: key)
        let shape = spec.shape(features: widths[0], classes: widths[2])
        var plan = try plan(shape, image.shape, question.rows, deviceBytes: 1 << 40)
        if let percent = question.memoryPercent {
            plan = try self.plan(
                shape, image.shape, question.rows, deviceBytes: plan.forecast.deviceBytes * percent / 100)
        }
        FileHandle.standardError.write(Data((plan.table + "\n").utf8))
        let program = try spec.program(for: plan)
        let device = try LocalDevice(image, memoryBytes: plan.forecast.deviceBytes, runKey: key, threads: threads)
        let number = try await device.load(try program.bytes(), windows: program.windows)
        var run = Run(device: device, program: number, forecast: plan.forecast)
        // The first epoch also fetches the image and makes the parameters.
        _ = try await ring(&run, [.first, .train])
        return run
    }

    private func plan(
        _ shape: ModelShape, _ image: ImageShape, _ rows: Int?, deviceBytes: Int
    ) throws -> TrainingPlan {
        // The windows are memory of this process, so the link is as fast as copying.
        let budget = Budget(
            deviceBytes: deviceBytes, hostBytes: 1 << 40,
            link: LinkRates(bytesPerSecond: 8e9, roundTripSeconds: 1e-6))
        guard let rows else { return try Planner.plan(model: shape, image: image, budget: budget) }
        return try Planner.plan(model: shape, image: image, budget: budget, cut: Cut(chunkRows: rows))
    }

    private func ring(_ run: inout Run, _ flags: DoorbellFlags) async throws -> Completion {
        let arguments = DoorbellArguments(
            seed: 1, epoch: run.epoch, step: run.epoch + 1, learningRate: 0.01, flags: flags)
        run.epoch += 1
        return try Completion(parsing: try await run.device.ring(run.program, try arguments.bytes))
    }
}
