import Gateway
import Hummingbird
import HTTPTypes
import Vocabulary

/// A run as server-sent events, worded for its reader.
enum RunLive {
    /// Where a page is that shows a candidate which waits for its reviewers.
    static let reviewWaits = "review-waits"

    static func response(_ events: AsyncStream<RunEvent>, _ words: Words) -> Response {
        Response(
            status: .ok, headers: [.contentType: "text/event-stream; charset=utf-8"],
            body: .events(events) { text(of: $0, words) })
    }

    /// One event as its lines on the wire.
    static func text(of event: RunEvent, _ words: Words) -> String {
        switch event {
        case .stage(let stage): EventText.line("moved", ["stage": .string(stage.rawValue)])
        case .epoch(let progress):
            EventText.line(
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
        case .held: EventText.line("state", ["words": .string(words("run.live.held"))])
        case .deviceLost: EventText.line("state", ["words": .string(words("run.live.device-lost"))])
        case .waiting: EventText.line("moved", ["stage": .string(reviewWaits)])
        case .closed: EventText.line("moved", ["stage": "ended"])
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
}
