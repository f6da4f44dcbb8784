import AuditTrail
import Mustache
package import Vocabulary

/// A run told on one page, from its durable records only: for people who would rather look.
///
/// It holds no row of data and no name of a person of the cohort. Figures are in it once they are released.
struct RunReport {
    let run: RunCase
    let figuresAllowed: Bool

    var html: String {
        get throws { try MustacheTemplate(string: Self.page).render(content) }
    }

    private var content: [String: Any] {
        [
            "run": run.id.text,
            "dataset": "\(run.dataset) \(run.version)",
            "stage": run.isClosed ? "closed, \(run.end?.rawValue ?? "")" : run.nextStage.rawValue,
            "summary": summary.map { ["name": $0.name, "value": $0.value] },
            "pictures": pictures.map { ["title": $0.title, "svg": $0.svg, "words": $0.words] },
            "records": run.file.records.filter { $0.event != .trainingEpoch }.map { record in
                [
                    "time": record.time.description, "index": "\(record.index)", "event": record.event.rawValue,
                    "outcome": record.outcome.rawValue, "reasons": record.reasons.joined(separator: ", "),
                    "leaf": String(record.leafHash.hex.prefix(16)),
                ]
            },
            "epochs": "\(run.epochsRecorded)",
        ]
    }

    // MARK: - Figures

    private func figure(_ key: String, _ name: String) -> Int? {
        run.file[key]?.detail[name]?.integerValue.map(Int.init)
    }

    private var summary: [(name: String, value: String)] {
        typealias Key = RunCase.Key
        var rows: [(String, String)] = []
        func add(_ name: String, _ value: String?) { if let value { rows.append((name, value)) } }
        add("researcher", run.researcher.text)
        add("purpose", run.file[Key.requested]?.core["purpose"]?.stringValue)
        add("cohort", figure(Key.opened, "persons").map { $0 == 0 ? "no persons in this data set" : "\($0) persons" })
        add(
            "image",
            figure(Key.opened, "nodes").map { "\($0) nodes, \(figure(Key.opened, "edges") ?? 0) directed edges" })
        add("device", run.leased?.core["device"]?.stringValue)
        add("fence", run.leased?.core["fence"]?.integerValue.map(String.init))
        add("devices lost", run.losses == 0 ? nil : run.devicesLost.map(\.text).joined(separator: ", "))
        add("plan", run.file[Key.planned]?.detail["cut"]?.stringValue)
        add("epochs", figure(Key.trained, "epochs").map(String.init))
        if figuresAllowed {
            add("test accuracy", figure(Key.trained, "test_ppm").map(Self.percent))
            add("validation accuracy", figure(Key.trained, "validation_ppm").map(Self.percent))
        }
        add("bytes to the device", figure(Key.trained, "bytes_to_device").map(Picture.bytes))
        add("bytes from the device", figure(Key.trained, "bytes_from_device").map(Picture.bytes))
        add("released artefacts", figure(Key.ready, "bytes").map(Picture.bytes))
        add("scrub", run.file[Key.scrubbed].map { $0.outcome == .done ? "certificate in the trail" : "unproven" })
        return rows
    }

    static func percent(_ partsPerMillion: Int) -> String { "\(Picture.number(Double(partsPerMillion) / 10_000)) %" }

    // MARK: - Pictures

    private var pictures: [(title: String, svg: String, words: String)] {
        var found: [(String, String, String)] = []
        let stages = RunTimeline(run.file).stages
        let words = stages.map { "\($0.stage.rawValue) \(Picture.seconds($0.seconds))" }.joined(separator: ", ")
        found.append(
            (
                "Journey",
                Picture.timeline(
                    title: "Seconds in each stage: \(words)",
                    bars: stages.map { ($0.stage.rawValue, $0.start, $0.seconds) }
                ).svg, words
            ))
        if figuresAllowed { found += lossPictures }
        if let memory = memoryPicture { found.append(memory) }
        return found
    }

    private var lossPictures: [(String, String, String)] {
        let epochs = run.file.records.filter { $0.event == .trainingEpoch }
        let loss = epochs.compactMap { $0.detail["loss_micro"]?.integerValue }.map { Double($0) / 1e6 }
        guard loss.count > 1 else { return [] }
        func share(_ name: String) -> [Double] {
            epochs.compactMap { $0.detail[name]?.integerValue }.map { Double($0) / 10_000 }
        }
        let lossPicture = Picture.lines(
            title: "Training loss by epoch", series: [("loss", loss)], low: 0, high: loss.max()!,
            format: { Self.hundredths($0) })
        let accuracy = [
            ("train", share("train_ppm")), ("validation", share("validation_ppm")), ("test", share("test_ppm")),
        ]
        .filter { !$0.1.isEmpty }
        let accuracyPicture = Picture.lines(
            title: "Accuracy by epoch", series: accuracy, low: 0, high: 100, format: { "\(Picture.number($0)) %" })
        return [
            (
                "Loss", lossPicture.svg,
                "from \(Self.hundredths(loss.first!)) to \(Self.hundredths(loss.last!)) over \(loss.count) epochs"
            ),
            (
                "Accuracy", accuracyPicture.svg,
                accuracy.map { "\($0.0) \(Picture.number($0.1.last!)) %" }.joined(separator: ", ")
            ),
        ]
    }

    private static func hundredths(_ value: Double) -> String { "\((value * 100).rounded() / 100)" }

    private var memoryPicture: (String, String, String)? {
        let rows = run.memoryTiers
        guard !rows.isEmpty else { return nil }
        let words = rows.map { row in
            let used = Picture.bytes(row.parts.map(\.bytes).reduce(0, +))
            let parts = row.parts.map { "\($0.name) \(Picture.bytes($0.bytes))" }.joined(separator: ", ")
            return "\(row.name): \(used) (\(parts))"
        }
        return (
            "Memory by tier", Picture.tiers(title: words.joined(separator: "; "), tiers: rows).svg,
            words.joined(separator: "; ")
        )
    }

    // MARK: - The page

    private static let page = """
        <!doctype html>
        <html lang="en"><head><meta charset="utf-8">
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <title>Run {{run}}</title>
        <style>
        :root{color-scheme:light dark;--ink:#1b2430;--quiet:#5a6675;--page:#fff;--rule:#d6dce3;--a:#1f5fa8;--b:#b4540a;--c:#2f7d4f;
        --d:#7a3e9d;--e:#8a6d00;--f:#a3263e}
        @media(prefers-color-scheme:dark){:root{--ink:#e6ebf1;--quiet:#a3afbd;--page:#12171e;--rule:#2c3642;--a:#7db4f0;
        --b:#f0a468;--c:#7ccb9a;--d:#cf9bec;--e:#dcc05c;--f:#f08a9d}}
        body{margin:2rem auto;max-width:64rem;padding:0 1rem;font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page)}
        h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem}p.words{color:var(--quiet);margin:.2rem 0}
        table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.25rem .6rem;border-bottom:1px solid var(--rule);
        vertical-align:top}th{font-weight:600}code{font-size:.85em}
        .time{white-space:nowrap}svg{width:100%;height:auto}.label,.figure,.name{font-size:12px;fill:var(--ink)}.figure{fill:var(--quiet)}
        .bar,.part0{fill:var(--a)}.part1{fill:var(--b)}.part2{fill:var(--c)}.part3{fill:var(--d)}.part4{fill:var(--e)}.part5{fill:var(--f)}
        .room{fill:none;stroke:var(--quiet)}.axis{stroke:var(--quiet)}.grid{stroke:var(--rule)}
        .line{fill:none;stroke-width:1.8}.line0{stroke:var(--a)}.line1{stroke:var(--b)}.line2{stroke:var(--c)}
        .name0{fill:var(--a)}.name1{fill:var(--b)}.name2{fill:var(--c)}
        </style></head><body>
        <h1>Run {{run}}</h1>
        <p>{{dataset}} · {{stage}}</p>
        <h2>Summary</h2>
        <table>{{#summary}}<tr><th scope="row">{{name}}</th><td>{{value}}</td></tr>{{/summary}}</table>
        {{#pictures}}<h2>{{title}}</h2>{{{svg}}}<p class="words">{{words}}</p>{{/pictures}}
        <h2>Records in the trail</h2>
        <p class="words">{{epochs}} epoch summaries are left out here; the export holds them.</p>
        <table><tr><th>index</th><th>time</th><th>event</th><th>outcome</th><th>reasons</th><th>leaf</th></tr>
        {{#records}}<tr><td>{{index}}</td><td class="time">{{time}}</td><td>{{event}}</td><td>{{outcome}}</td><td>{{reasons}}</td>
        <td><code>{{leaf}}…</code></td></tr>{{/records}}</table>
        </body></html>

        """
}

extension Gateway {
    /// A run on one page, with its figures once they are released. Reading by anyone but the researcher is recorded.
    package func report(_ id: RunID, by person: PersonID) throws -> String {
        let run = try runCase(id)
        if person != run.researcher {
            try requireOpening(of: run, by: person)
            try ledger.record(
                Event(.trailRead, .done).with {
                    $0.actor = person
                    $0.ofRun = id
                    $0.detail = ["read": "report"]
                }, in: .gateway, key: ledger.freshKey("read"))
        }
        return try RunReport(run: run, figuresAllowed: run.isReleased).html
    }
}

/// Seconds per stage, read off the times of a run's records.
package struct RunTimeline {
    package struct Stage: Sendable, Equatable {
        package let stage: RunStage
        /// Seconds since the run was asked for.
        package let start: Double
        package let seconds: Double
    }

    package let stages: [Stage]

    package init(_ file: CaseFile) {
        typealias Key = RunCase.Key
        let ends: [(RunStage, String)] = [
            (.decide, Key.decided), (.open, Key.opened), (.attach, Key.leased), (.plan, Key.planned),
            (.train, Key.trained), (.scrub, Key.scrubbed), (.review, Key.releaseDecided), (.release, Key.ready),
            (.closed, Key.closed),
        ]
        guard let first = file.records.first else {
            stages = []
            return
        }
        var from = first.time.milliseconds
        var stages: [Stage] = []
        for (stage, key) in ends {
            guard let end = file[key]?.time.milliseconds else { continue }
            stages.append(
                Stage(
                    stage: stage, start: Double(from - first.time.milliseconds) / 1000,
                    seconds: Double(max(end - from, 0)) / 1000))
            from = max(end, from)
        }
        self.stages = stages
    }
}
