import Foundation

/// Measures training with the node's executor in this process; see scripts/bench.
@main
enum Bench {
    static func main() async throws {
        let arguments = Array(CommandLine.arguments.dropFirst())
        switch arguments.first {
        case "accuracy": try await AccuracyBench(Array(arguments.dropFirst())).run()
        case "kernels": try KernelBench(Array(arguments.dropFirst())).serve()
        case "training": try await EpochBench(Array(arguments.dropFirst())).serve()
        default:
            FileHandle.standardError.write(
                Data(
                    """
                    usage: sekisho-bench accuracy DATA-FOLDER [--seeds N] [--threads N] [SPEC…]
                           sekisho-bench training ARRAY-FOLDER FEATURES HIDDEN CLASSES [--threads N]
                           sekisho-bench kernels ARRAY-FOLDER [--threads N]
                    accuracy trains the shipped specifications (config/specs) on the real data sets.
                    training answers lines such as "gcn 5 memory=50 evaluate" with the seconds of that many training
                    epochs and a profile: milliseconds of each kind of work, measured and as forecast, as JSON.
                    kernels answers lines such as "spmm 64" with the seconds of that operation, as JSON.

                    """.utf8))
            exit(2)
        }
    }

    /// The value after `name`, which is removed with it.
    static func option(_ name: String, _ arguments: inout [String]) -> Int? {
        guard let at = arguments.firstIndex(of: name), at + 1 < arguments.count, let value = Int(arguments[at + 1])
        else { return nil }
        arguments.removeSubrange(at...at + 1)
        return value
    }
}
