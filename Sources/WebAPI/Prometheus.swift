package import CoreMetrics
import Synchronization

/// Keeps the process's metrics and writes them as Prometheus text, version 0.0.4.
///
/// Labels come from closed sets, so the table is bounded by the code; `seriesMax` holds it even where that is broken.
package final class Prometheus: MetricsFactory, Sendable {
    package static let shared = Prometheus()
    private static let seriesMax = 4096
    private let table = Mutex<[String: any Series]>([:])

    init() {}

    /// Makes `shared` the process's metrics, once; where another system was installed already, that one stays.
    package static let installed: Bool = {
        MetricsSystem.bootstrap(shared)
        return true
    }()

    // MARK: - What swift-metrics asks for

    package func makeCounter(label: String, dimensions: [(String, String)]) -> any CounterHandler {
        series(label, dimensions, Total.self) { Total(label: label, labels: dimensions) }
            ?? Total(label: label, labels: [])
    }

    package func makeMeter(label: String, dimensions: [(String, String)]) -> any MeterHandler {
        series(label, dimensions, Gauge.self) { Gauge(label: label, labels: dimensions) }
            ?? Gauge(label: label, labels: [])
    }

    package func makeRecorder(
        label: String, dimensions: [(String, String)], aggregate: Bool
    ) -> any RecorderHandler {
        guard aggregate else {
            return series(label, dimensions, Gauge.self) { Gauge(label: label, labels: dimensions) }
                ?? Gauge(label: label, labels: [])
        }
        return series(label, dimensions, Histogram.self) { Histogram(label: label, labels: dimensions) }
            ?? Histogram(label: label, labels: [])
    }

    package func makeTimer(label: String, dimensions: [(String, String)]) -> any TimerHandler {
        series(label, dimensions, Histogram.self) { Histogram(label: label, labels: dimensions) }
            ?? Histogram(label: label, labels: [])
    }

    // Counters that are made anew for each event keep counting in the same series.
    package func destroyCounter(_ handler: any CounterHandler) {}
    package func destroyMeter(_ handler: any MeterHandler) {}
    package func destroyRecorder(_ handler: any RecorderHandler) {}
    package func destroyTimer(_ handler: any TimerHandler) {}

    /// `nil` where the name is taken by another kind of series, or the table is full: counted nowhere, then.
    private func series<Kind: Series>(
        _ label: String, _ labels: [(String, String)], _: Kind.Type, _ make: () -> Kind
    ) -> Kind? {
        let key = label + Self.write(labels)
        return table.withLock { table in
            if let known = table[key] { return known as? Kind }
            guard table.count < Self.seriesMax else { return nil }
            let series = make()
            table[key] = series
            return series
        }
    }

    // MARK: - Text

    package var text: String {
        let all = table.withLock { Array($0.values) }
        let families = Dictionary(grouping: all, by: \.label)
        return families.sorted { $0.key < $1.key }.map { name, members in
            "# TYPE \(name) \(members[0].kind)\n"
                + members.map { ($0.lines, Self.write($0.labels)) }.sorted { $0.1 < $1.1 }.flatMap(\.0)
                .map { $0 + "\n" }.joined()
        }.joined()
    }

    fileprivate static func write(_ labels: [(String, String)]) -> String {
        labels.isEmpty
            ? "" : "{" + labels.map { "\($0)=\"\(escape($1))\"" }.joined(separator: ",") + "}"
    }

    private static func escape(_ text: String) -> String {
        text.reduce(into: "") { out, character in
            switch character {
            case "\\": out += "\\\\"
            case "\"": out += "\\\""
            case "\n": out += "\\n"
            default: out.append(character)
            }
        }
    }
}

/// One row of numbers under one name and one set of labels.
private protocol Series: AnyObject, Sendable {
    var label: String { get }
    var labels: [(String, String)] { get }
    var kind: String { get }
    var lines: [String] { get }
}

private final class Total: Series, CounterHandler {
    let label: String
    let labels: [(String, String)]
    let kind = "counter"
    private let count = Atomic<Int64>(0)

    init(label: String, labels: [(String, String)]) {
        self.label = label
        self.labels = labels
    }

    func increment(by amount: Int64) { count.add(max(0, amount), ordering: .relaxed) }
    func reset() { count.store(0, ordering: .relaxed) }

    var lines: [String] { ["\(label)\(Prometheus.write(labels)) \(count.load(ordering: .relaxed))"] }
}

private final class Gauge: Series, MeterHandler, RecorderHandler {
    let label: String
    let labels: [(String, String)]
    let kind = "gauge"
    private let value = Mutex(0.0)

    init(label: String, labels: [(String, String)]) {
        self.label = label
        self.labels = labels
    }

    func set(_ value: Int64) { set(Double(value)) }
    func set(_ value: Double) { self.value.withLock { $0 = value } }
    func record(_ value: Int64) { set(Double(value)) }
    func record(_ value: Double) { set(value) }
    func increment(by amount: Double) { value.withLock { $0 += amount } }
    func decrement(by amount: Double) { value.withLock { $0 -= amount } }

    var lines: [String] { ["\(label)\(Prometheus.write(labels)) \(value.withLock { $0 })"] }
}

/// Seconds for a timer, the plain value for a recorder; buckets from half a millisecond to a minute.
private final class Histogram: Series, TimerHandler, RecorderHandler {
    private struct State {
        var buckets = [UInt64](repeating: 0, count: Histogram.bounds.count)
        var count: UInt64 = 0
        var sum = 0.0
    }

    static let bounds = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60]
    let label: String
    let labels: [(String, String)]
    let kind = "histogram"
    private let state = Mutex(State())

    init(label: String, labels: [(String, String)]) {
        self.label = label
        self.labels = labels
    }

    func recordNanoseconds(_ duration: Int64) { record(Double(duration) / 1e9) }
    func record(_ value: Int64) { record(Double(value)) }
    func record(_ value: Double) {
        guard value.isFinite else { return }
        state.withLock { state in
            for (index, bound) in Self.bounds.enumerated() where value <= bound { state.buckets[index] += 1 }
            state.count += 1
            state.sum += value
        }
    }

    var lines: [String] {
        let state = state.withLock { $0 }
        let buckets = zip(Self.bounds.map { "\($0)" }, state.buckets) + [("+Inf", state.count)]
        return buckets.map { "\(label)_bucket\(Prometheus.write(labels + [("le", $0)])) \($1)" } + [
            "\(label)_sum\(Prometheus.write(labels)) \(state.sum)",
            "\(label)_count\(Prometheus.write(labels)) \(state.count)",
        ]
    }
}
