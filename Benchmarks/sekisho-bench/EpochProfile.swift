import FabricProtocol
import Training
import TrainingPlanner

/// Where an epoch's time went, and where its plan's forecast says that it goes.
struct EpochProfile {
    /// Of the whole epoch.
    let forecastSeconds: Double
    private var rows: [(name: String, seconds: Double, forecast: Double)] = []

    /// - Parameter works: those of the epochs, whose mean counts.
    init(_ plan: RunPlan, evaluates: Bool, _ works: [Completion.Work]) {
        let epoch = plan.epoch
        let passes = epoch.passes.indices.filter { evaluates || epoch.passes[$0].phase == .train }
        forecastSeconds = evaluates ? epoch.forecast.secondsPerEpoch : epoch.forecast.trainingSecondsPerEpoch
        func mean(_ nanoseconds: (Completion.Work) -> UInt64) -> Double {
            works.reduce(0) { $0 + Double(nanoseconds($1)) } / Double(max(works.count, 1)) / 1e9
        }
        func forecast(_ seconds: (PassSeconds) -> Double) -> Double {
            passes.reduce(0) { $0 + seconds(epoch.seconds[$1]) }
        }
        for kind in WorkKind.allCases {
            let measured = mean { work in
                work.byOperation.indices.filter { Self.kind(code: $0) == kind }.reduce(0) { $0 + work.byOperation[$1] }
            }
            add("\(kind)", measured, passes.reduce(0) { $0 + epoch.costs[$1].computing[kind.rawValue] })
        }
        let commands = passes.reduce(0) { $0 + epoch.costs[$1].computeCommands }
        let starts = Double(commands) * epoch.budget.device.secondsPerCommand
        let computing = passes.reduce(0) { $0 + epoch.costs[$1].computeSeconds }
        let compute = forecast(\.compute)
        let known = rows.reduce(0) { $0 + $1.seconds }
        // A start's time is in its command's; the forecast has it apart, as what opening takes from the same cores.
        add("starts, of these", 0, starts)
        add("opening's share, of these", 0, compute - computing - starts)
        add("otherComputing", mean(\.computeNanoseconds) - known, 0)
        add("compute", mean(\.computeNanoseconds), compute)
        add("fetch", mean(\.fetchNanoseconds), forecast(\.fetch))
        add("store", mean(\.storeNanoseconds), forecast(\.store))
        let wall = mean(\.wallNanoseconds)
        add("computeWaits", wall - mean(\.computeNanoseconds), forecastSeconds - compute)
        add("epoch", wall, forecastSeconds)
    }

    private mutating func add(_ name: String, _ seconds: Double, _ forecast: Double) {
        rows.append((name, seconds, forecast))
    }

    /// Milliseconds, measured and as forecast, by name.
    var json: String {
        func milliseconds(_ seconds: Double) -> String { String((seconds * 1e5).rounded() / 100) }
        return "{"
            + rows.map { "\"\($0.name)\": [\(milliseconds($0.seconds)), \(milliseconds($0.forecast))]" }
            .joined(separator: ", ") + "}"
    }

    /// What kind of work an operation is, by its code in a program's bytes; none for what crosses and for the step.
    private static func kind(code: Int) -> WorkKind? {
        switch code {
        case 3, 4, 5, 20: .rowLocal
        case 6: .neighbourSum
        case 7: .product
        case 8, 10: .weightGradient
        case 9: .columnSum
        case 11, 12, 15, 16: .loss
        case 17, 18, 19: .attention
        default: nil
        }
    }
}
