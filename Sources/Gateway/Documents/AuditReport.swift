import Mustache
import Vocabulary

/// An export told on one page, with pictures: for whoever reads it without tools. It needs no script, no font and no
/// other file.
struct AuditReport {
    enum Language: String, CaseIterable, Sendable { case english = "en", japanese = "ja" }

    /// Rows that a list of the page has at most; the tables hold every record.
    private static let rowsMax = 1_000
    private static let runsMax = 12
    private static let columns = 60

    private let subject: DocumentSubject
    private var count = 0
    private var first: Timestamp?
    private var latest: Timestamp?
    /// Records in each hour since 1970.
    private var hours: [Int64: Int] = [:]
    /// By part of the journey: done, refused, failed.
    private var outcomes: [Area: [Int]] = [:]
    private var decisions: [DocumentRecord] = []
    private var stops: [DocumentRecord] = []
    private var people: [String: Int] = [:]
    private var runs: [(run: String, stages: [(name: String, time: Timestamp)])] = []
    private var runPlaces: [String: Int] = [:]
    private var omitted = 0

    /// What the records are about, as the pictures group them.
    private enum Area: String, CaseIterable {
        case access, run, device, training, release, data, people, trail

        init(_ event: String) {
            switch event.prefix(while: { $0 != "." }) {
            case "request", "access", "grant": self = .access
            case "device", "node", "window", "pki", "key": self = .device
            case "training", "program", "progress": self = .training
            case "release": self = .release
            case "dataset", "consent", "subject": self = .data
            case "person", "policy", "session": self = .people
            case "run": self = .run
            default: self = .trail
            }
        }
    }

    init(_ subject: DocumentSubject) { self.subject = subject }

    mutating func add(_ record: DocumentRecord) {
        count += 1
        first = first.map { min($0, record.time) } ?? record.time
        latest = latest.map { max($0, record.time) } ?? record.time
        hours[record.time.milliseconds / 3_600_000, default: 0] += 1
        let place = record.outcome == "refused" ? 1 : record.outcome == "failed" ? 2 : 0
        outcomes[Area(record.event), default: [0, 0, 0]][place] += 1
        if let actor = record.text("actor") { people[actor, default: 0] += 1 }
        if record.decision != nil { keep(record, in: \.decisions) }
        if place > 0, record.decision == nil { keep(record, in: \.stops) }
        addStage(record)
    }

    private mutating func keep(_ record: DocumentRecord, in list: WritableKeyPath<AuditReport, [DocumentRecord]>) {
        if self[keyPath: list].count < Self.rowsMax { self[keyPath: list].append(record) } else { omitted += 1 }
    }

    /// The record that ends each stage of a run.
    private mutating func addStage(_ record: DocumentRecord) {
        let ends = [
            "run.requested": "", "run.decided": "decide", "run.opened": "open", "device.leased": "attach",
            "run.planned": "plan", "run.trained": "train", "run.predicted": "train", "device.scrubbed": "scrub",
            "release.decided": "review",
            "release.ready": "release", "run.closed": "closed",
        ]
        guard let run = record.text("run"), let stage = ends[record.event],
            record.outcome != "intent" || record.event == "run.requested"
        else { return }
        if runPlaces[run] == nil {
            guard runs.count < Self.runsMax, record.event == "run.requested" else { return }
            runPlaces[run] = runs.count
            runs.append((run, []))
        }
        runs[runPlaces[run]!].stages.append((stage, record.time))
    }

    // MARK: - The page

    func html(_ language: Language) throws -> String {
        try MustacheTemplate(string: Self.page).render(content(ReportWords(language)))
    }

    private func content(_ words: ReportWords) -> [String: Any] {
        func row(_ record: DocumentRecord) -> [String: String] {
            [
                "index": "\(record.index)", "time": record.time.description, "event": words.event(record.event),
                "code": record.event, "about": record.text("run") ?? record.text("dataset") ?? "",
                "who": record.text("actor") ?? "", "decision": words[record.decision ?? record.outcome],
                "reasons": record.reasons.joined(separator: ", "),
                "policy": record.text("policy").map { "\($0.prefix(12))…" } ?? "",
            ]
        }
        var summary: [(String, String)] = [
            ("log", subject.origin), ("scope", words[subject.scope]), ("run", subject.run ?? ""),
            ("dataset", subject.dataset ?? ""), ("made", subject.made.description),
            ("period", first.map { "\($0) – \(latest ?? $0)" } ?? ""), ("records", "\(count)"),
            ("size", "\(subject.size)"), ("root", subject.root.hex),
        ]
        summary.removeAll { $0.1.isEmpty }
        return [
            "lang": words.language.rawValue, "title": words["title"], "intro": words["intro"],
            "verify": words["verify"],
            "summary": summary.map { ["name": words[$0.0], "value": $0.1] },
            "pictures": pictures(words).map { ["title": $0.title, "svg": $0.svg, "words": $0.words] },
            "decisions": words["decisions"], "decisionRows": decisions.map(row),
            "stops": words["stops"], "stopRows": stops.map(row),
            "people": words["people"],
            "peopleRows": people.sorted { ($1.value, $0.key) < ($0.value, $1.key) }.prefix(Self.rowsMax).map {
                ["who": $0.key, "count": "\($0.value)"]
            },
            "more": omitted > 0 ? words["more"].replacing("#", with: "\(omitted)") : "",
            "h": [
                "index": words["index"], "time": words["time"], "event": words["event"], "about": words["about"],
                "who": words["who"], "decision": words["decision"], "reasons": words["reasons"],
                "policy": words["policy"], "count": words["records"],
            ],
        ]
    }

    // MARK: - Pictures

    private func pictures(_ words: ReportWords) -> [(title: String, svg: String, words: String)] {
        var found: [(String, String, String)] = []
        if let picture = histogram(words) { found.append(picture) }
        found.append(bars(words))
        for (run, stages) in runs where stages.count > 1 {
            let start = stages[0].time.milliseconds
            var from = start
            let bars = stages.dropFirst().map { stage, time in
                defer { from = max(from, time.milliseconds) }
                return (
                    name: words[stage], start: Double(from - start) / 1000,
                    seconds: Double(max(time.milliseconds - from, 0)) / 1000
                )
            }
            let text = bars.map { "\($0.name) \(Picture.seconds($0.seconds))" }.joined(separator: ", ")
            found.append(
                (
                    "\(words["run"]) \(run)",
                    Picture.timeline(title: "\(words["run"]) \(run): \(text)", bars: bars).svg, text
                ))
        }
        return found
    }

    /// Records over time, in at most `columns` columns of whole hours.
    private func histogram(_ words: ReportWords) -> (String, String, String)? {
        guard let low = hours.keys.min(), let high = hours.keys.max() else { return nil }
        let width = (high - low) / Int64(Self.columns) + 1
        var counts = [Int](repeating: 0, count: Int((high - low) / width) + 1)
        for (hour, number) in hours { counts[Int((hour - low) / width)] += number }
        let top = counts.max() ?? 1
        let text = words["busiest"].replacing("#", with: "\(top)").replacing("%", with: "\(width)")
        var picture = Picture(title: "\(words["over"]): \(text)", height: 170)
        let left = 60.0
        let step = (picture.width - left - 10) / Double(max(counts.count, 12))
        for (place, number) in counts.enumerated() where number > 0 {
            let height = 120 * Double(number) / Double(top)
            let time = Timestamp(milliseconds: (low + Int64(place) * width) * 3_600_000)
            picture.rectangle(
                x: left + Double(place) * step, y: 130 - height, width: max(step - 2, 1), height: height, kind: "bar",
                label: "\(time): \(number)")
        }
        picture.line(x1: left, y1: 130, x2: picture.width - 10, y2: 130)
        picture.text("\(top)", x: left - 8, y: 18, anchor: "end")
        picture.text("0", x: left - 8, y: 134, anchor: "end")
        picture.text(Timestamp(milliseconds: low * 3_600_000).description, x: left, y: 152)
        if counts.count > 1 {
            picture.text(
                Timestamp(milliseconds: (high + 1) * 3_600_000).description, x: picture.width - 10, y: 152,
                anchor: "end")
        }
        return (words["over"], picture.svg, text)
    }

    /// What came of the records, by what they are about.
    private func bars(_ words: ReportWords) -> (String, String, String) {
        let areas = Area.allCases.filter { outcomes[$0] != nil }
        let most = max(outcomes.values.map { $0.reduce(0, +) }.max() ?? 1, 1)
        let names = ["done", "refused", "failed"].map { words[$0] }
        let text = areas.map { area in
            let parts = zip(names, outcomes[area]!).filter { $0.1 > 0 }.map { "\($0.0) \($0.1)" }
            return "\(words["area." + area.rawValue]): \(parts.joined(separator: ", "))"
        }.joined(separator: "; ")
        var picture = Picture(title: text, height: Double(areas.count) * 28 + 8)
        let left = 150.0
        let scale = (picture.width - left - 90) / Double(most)
        for (row, area) in areas.enumerated() {
            let y = Double(row) * 28
            picture.text(words["area." + area.rawValue], x: left - 8, y: y + 19, anchor: "end")
            var x = left
            for (place, number) in outcomes[area]!.enumerated() where number > 0 {
                picture.rectangle(
                    x: x, y: y + 4, width: Double(number) * scale, height: 20, kind: "outcome\(place)",
                    label: "\(names[place]): \(number)")
                x += Double(number) * scale
            }
            picture.text("\(outcomes[area]!.reduce(0, +))", x: x + 6, y: y + 19, kind: "figure")
        }
        return (words["outcomes"], picture.svg, text)
    }

    private static let page = """
        <!doctype html>
        <html lang="{{lang}}"><head><meta charset="utf-8">
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <title>{{title}}</title>
        <style>
        :root{color-scheme:light dark;--ink:#1b2430;--quiet:#5a6675;--page:#fff;--rule:#d6dce3;--a:#1f5fa8;--b:#b4540a;--c:#a3263e}
        @media(prefers-color-scheme:dark){:root{--ink:#e6ebf1;--quiet:#a3afbd;--page:#12171e;--rule:#2c3642;--a:#7db4f0;
        --b:#f0a468;--c:#f08a9d}}
        body{margin:2rem auto;max-width:72rem;padding:0 1rem;font:16px/1.6 system-ui,"Noto Sans JP",sans-serif;color:var(--ink);
        background:var(--page)}
        h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem}p.words{color:var(--quiet);margin:.2rem 0}
        table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.25rem .6rem;border-bottom:1px solid var(--rule);
        vertical-align:top;overflow-wrap:anywhere}th{font-weight:600}code{font-size:.85em}
        .time{white-space:nowrap}svg{width:100%;height:auto}.label,.figure{font-size:12px;fill:var(--ink)}.figure{fill:var(--quiet)}
        .bar,.outcome0{fill:var(--a)}.outcome1{fill:var(--b)}.outcome2{fill:var(--c)}.axis{stroke:var(--quiet)}
        @media print{body{max-width:none;margin:0}h2{break-after:avoid}tr,svg{break-inside:avoid}}
        </style></head><body>
        <h1>{{title}}</h1>
        <p>{{intro}}</p>
        <table>{{#summary}}<tr><th scope="row">{{name}}</th><td>{{value}}</td></tr>{{/summary}}</table>
        <p class="words">{{verify}}</p>
        {{#pictures}}<h2>{{title}}</h2>{{{svg}}}<p class="words">{{words}}</p>
        {{/pictures}}
        <h2>{{decisions}}</h2>
        <table><thead><tr><th>{{h.index}}</th><th>{{h.time}}</th><th>{{h.event}}</th><th>{{h.about}}</th><th>{{h.decision}}</th>
        <th>{{h.reasons}}</th><th>{{h.policy}}</th></tr></thead><tbody>
        {{#decisionRows}}<tr><td>{{index}}</td><td class="time">{{time}}</td><td>{{event}}</td><td>{{about}}</td>
        <td>{{decision}}</td><td>{{reasons}}</td><td><code>{{policy}}</code></td></tr>
        {{/decisionRows}}</tbody></table>
        <h2>{{stops}}</h2>
        <table><thead><tr><th>{{h.index}}</th><th>{{h.time}}</th><th>{{h.event}}</th><th>{{h.about}}</th><th>{{h.who}}</th>
        <th>{{h.decision}}</th><th>{{h.reasons}}</th></tr></thead><tbody>
        {{#stopRows}}<tr><td>{{index}}</td><td class="time">{{time}}</td><td>{{event}}</td><td>{{about}}</td><td>{{who}}</td>
        <td>{{decision}}</td><td>{{reasons}}</td></tr>
        {{/stopRows}}</tbody></table>
        <h2>{{people}}</h2>
        <table><thead><tr><th>{{h.who}}</th><th>{{h.count}}</th></tr></thead><tbody>
        {{#peopleRows}}<tr><td>{{who}}</td><td>{{count}}</td></tr>{{/peopleRows}}</tbody></table>
        <p class="words">{{more}}</p>
        </body></html>

        """
}
