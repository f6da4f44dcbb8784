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
    /// The image of the latest recipe: they are large.
    private var images: [ImageRecipe: LocalImage] = [:]
    private let key = SecretBytes.random(count: 32)

    private struct Run {
        let device: LocalDevice
        let program: UInt32
        let plan: RunPlan
        /// What everything resident takes beyond the memory that is allowed: at least so much must cross.
        let leastLinkBytes: Int
        /// What the rates behind the plan took to find.
        let measuringSeconds: Double
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

    /// What one line asks for: `gcn 3 memory=50 evaluate weights`, all but the first two words optional.
    private struct Question {
        let model: Aggregation
        let epochs: Int
        /// Device memory in percent of what everything resident takes.
        var memoryPercent: Int?
        /// Rows of a chunk, with everything resident.
        var chunkRows: Int?
        /// Figures after each epoch, too, as a run has them.
        var evaluates = false
        /// Measures the rates and makes the plan again, whatever was asked before.
        var plansAnew = false
        /// Trains that many epochs from the start and tells the digest of the weights.
        var wantsWeights = false

        init(_ line: String) throws {
            let words = line.split(separator: " ")
            guard words.count >= 2, let model = Aggregation(rawValue: String(words[0])), let epochs = Int(words[1])
            else { throw BenchError(reason: "expected a model and a number of epochs") }
            self.model = model
            self.epochs = epochs
            for word in words.dropFirst(2) {
                let parts = word.split(separator: "=")
                switch (parts.first, parts.count == 2 ? Int(parts[1]) : nil) {
                case ("memory", let value?): memoryPercent = value
                case ("rows", let value?): chunkRows = value
                case ("evaluate", nil): evaluates = true
                case ("weights", nil): wantsWeights = true
                case ("anew", nil): plansAnew = true
                default: throw BenchError(reason: "unknown option \(word)")
                }
            }
        }

        var name: String { "\(model) \(memoryPercent ?? 100) \(chunkRows ?? 0)" }
    }

    func serve() async throws {
        while let line = readLine() {
            do {
                print(try await answer(Question(line)))
            } catch let error as PlanError {
                print("{\"refused\": \"\(error.code.rawValue)\"}")
            }
            fflush(nil)
        }
    }

    private func answer(_ question: Question) async throws -> String {
        if question.wantsWeights {
            let (spec, image, plan, _, _) = try plan(question)
            let device = try LocalDevice(image, memoryBytes: plan.deviceBytes, runKey: key, threads: threads)
            let model = try await Trainer(spec: spec, plan: plan).train(on: device)
            return "{\"weights\": \"\(model.weightsDigest.hex)\"}"
        }
        var run: Run
        if question.plansAnew { runs[question.name] = nil }
        if let known = runs[question.name] { run = known } else { run = try await start(question) }
        var seconds: [Double] = []
        var works: [Completion.Work] = []
        for _ in 0..<question.epochs {
            let start = ContinuousClock.now
            works.append(try await ring(&run, question.evaluates ? [.train, .evaluate] : .train).work)
            seconds.append(start.duration(to: .now) / .seconds(1))
        }
        runs[question.name] = run
        let profile = EpochProfile(run.plan, evaluates: question.evaluates, works)
        return """
            {"seconds": \(seconds), "forecastSeconds": \(profile.forecastSeconds), \
            "deviceBytes": \(run.plan.deviceBytes), "fetchedBytes": \(works.last?.fetchedBytes ?? 0), \
            "storedBytes": \(works.last?.storedBytes ?? 0), "leastLinkBytes": \(run.leastLinkBytes), \
            "measuringSeconds": \(run.measuringSeconds), "profile": \(profile.json)}
            """
    }

    private func plan(
        _ question: Question
    ) throws -> (ModelSpec, LocalImage, RunPlan, leastLinkBytes: Int, measuringSeconds: Double) {
        let spec = ModelSpec(
            model: question.model, hidden: [widths[1]], attention: .init(heads: 4),
            dropout: Quantity(billionths: 500_000_000), weightDecay: Quantity(billionths: 500_000),
            epochs: question.epochs)
        let image: LocalImage
        if let known = images[spec.recipe] {
            image = known
        } else {
            image = try LocalImage(
                PlainGraph(arrays: folder, features: widths[0], classes: widths[2]), recipe: spec.recipe, runKey: key)
            images = [spec.recipe: image]
        }
        let start = ContinuousClock.now
        let measured = try measuredRates(image)
        let measuring = start.duration(to: .now) / .seconds(1)
        let device = DeviceRates(measured) ?? DeviceRates()
        // The windows are memory of this process: copying from them is measured with the opening.
        let link = LinkRates(
            bytesPerSecond: 1e12, roundTripSeconds: 1e-6, sealBytesPerSecond: max(measured.openBytesPerSecond, 1))
        func plan(_ deviceBytes: Int) throws -> RunPlan {
            let budget = Budget(
                deviceBytes: deviceBytes, hostBytes: 1 << 40, device: device, link: link)
            guard let rows = question.chunkRows else { return try spec.plan(image: image.shape, budget: budget) }
            let plan = try Planner.plan(
                model: spec.shape(for: image.shape), image: image.shape, budget: budget, cut: Cut(chunkRows: rows))
            return try RunPlan(spec, plan, trainingByClass: image.trainingByClass)
        }
        let whole = try plan(1 << 40)
        guard let percent = question.memoryPercent else { return (spec, image, whole, 0, measuring) }
        let allowed = whole.deviceBytes * percent / 100
        return (spec, image, try plan(allowed), whole.deviceBytes - allowed, measuring)
    }

    /// As a run measures them when it has attached a device; anew for each plan, since other work comes and goes.
    private func measuredRates(_ image: LocalImage) throws -> Completion.Rates {
        let bytes = 64 << 20
        let device = try LocalDevice(image, memoryBytes: bytes, runKey: key, threads: threads)
        return try device.measured(bytes: bytes) ?? Completion.Rates()
    }

    private func start(_ question: Question) async throws -> Run {
        let (_, image, plan, leastLinkBytes, measuring) = try plan(question)
        FileHandle.standardError.write(Data((plan.table + "\n").utf8))
        let device = try LocalDevice(image, memoryBytes: plan.deviceBytes, runKey: key, threads: threads)
        let number = try await device.load(try plan.program.bytes(), windows: plan.program.windows)
        var run = Run(
            device: device, program: number, plan: plan, leastLinkBytes: leastLinkBytes, measuringSeconds: measuring)
        // The first epoch also fetches the image and makes the parameters.
        _ = try await ring(&run, [.first, .initial, .train])
        return run
    }

    private func ring(_ run: inout Run, _ flags: DoorbellFlags) async throws -> Completion {
        let arguments = DoorbellArguments(
            seed: 1, epoch: run.epoch, step: run.epoch + 1, learningRate: 0.01, flags: flags)
        run.epoch += 1
        return try Completion(parsing: try await run.device.ring(run.program, try arguments.bytes))
    }
}
