import Gateway
import HTTPTypes
import Hummingbird
import NIOCore
import ServiceLifecycle
import Vocabulary

/// A run as server-sent events, worded for its reader.
///
/// A stream ends after a few minutes and the browser asks again, so that nobody follows for longer than their session
/// lasts; a silent one is kept alive by comments.
enum RunLive {
    private static let beatSeconds: Int64 = 15
    private static let beatsMax = 20

    private enum Item: Sendable { case event(RunEvent), beat }

    static func response(_ events: AsyncStream<RunEvent>, _ words: Words) -> Response {
        Response(
            status: .ok, headers: [.contentType: "text/event-stream; charset=utf-8", .cacheControl: "no-store"],
            body: ResponseBody { writer in
                let (items, source) = AsyncStream.makeStream(of: Item.self, bufferingPolicy: .bufferingNewest(64))
                let following = Task {
                    for await event in events { source.yield(.event(event)) }
                    source.finish()
                }
                let beating = Task {
                    for _ in 0..<beatsMax {
                        try await Task.sleep(for: .seconds(beatSeconds))
                        source.yield(.beat)
                    }
                    source.finish()
                }
                defer {
                    following.cancel()
                    beating.cancel()
                }
                // The first line makes the browser wait this long before it asks again.
                try await writer.write(ByteBuffer(string: "retry: 3000\n\n"))
                for await item in items.cancelOnGracefulShutdown() {
                    switch item {
                    case .event(let event): try await writer.write(ByteBuffer(string: text(of: event, words)))
                    case .beat: try await writer.write(ByteBuffer(string: ":\n\n"))
                    }
                }
                try await writer.finish(nil)
            })
    }

    /// One event as its lines on the wire.
    static func text(of event: RunEvent, _ words: Words) -> String {
        switch event {
        case .stage(let stage): line("moved", ["stage": .string(stage.rawValue)])
        case .epoch(let progress):
            line(
                "progress",
                [
                    "done": .integer(Int64(progress.epoch)), "of": .integer(Int64(max(progress.epochs, 1))),
                    "words": .string(
                        words(
                            "run.progress.words",
                            [
                                "done": "\(progress.epoch)", "of": "\(progress.epochs)",
                                "seconds": "\(progress.secondsLeft)",
                            ])),
                    "figures": .string(words.list(progress.figures.map { figure(of: $0, words) })),
                ])
        case .held: line("state", ["words": .string(words("run.live.held"))])
        case .waiting: line("moved", ["stage": "review-waits"])
        case .closed: line("moved", ["stage": "ended"])
        }
    }

    private static func figure(of figure: ShownFigure, _ words: Words) -> String {
        let isLoss = figure.name == "loss"
        let value = isLoss ? thousandths(figure.thousandths) : RunPictures.percent(figure.thousandths * 1000)
        return words("run.figure", ["name": words.name("run.figure", figure.name), "value": value])
    }

    private static func thousandths(_ value: Int) -> String {
        let fraction = String(abs(value) % 1000)
        return "\(value / 1000).\(String(repeating: "0", count: 3 - fraction.count))\(fraction)"
    }

    private static func line(_ name: String, _ data: JSON) -> String {
        "event: \(name)\ndata: \(data.canonicalText)\n\n"
    }
}
