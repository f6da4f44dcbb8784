import Gateway
import Vocabulary

/// A run in pictures, each with its text alternative in the reader's language.
enum RunPictures {
    static func all(_ times: [RunTimeline.Stage], _ details: RunDetails, _ words: Words) -> [[String: Any]] {
        ([stages(times, words), memory(details, words)] + figures(details, words)).compactMap(\.self)
    }

    static func percent(_ partsPerMillion: Int) -> String { "\(Picture.number(Double(partsPerMillion) / 10_000)) %" }

    private static func picture(_ key: String, _ picture: Picture, _ text: String, _ words: Words) -> [String: Any] {
        ["title": words(key), "svg": picture.svg, "words": text]
    }

    private static func stages(_ times: [RunTimeline.Stage], _ words: Words) -> [String: Any]? {
        // How long people took says nothing about the machine, and would leave no room to see the rest.
        let bars = times.filter { $0.stage < .review }.map {
            (name: words.name("stage", $0.stage.rawValue), start: $0.start, seconds: $0.seconds)
        }
        guard !bars.isEmpty else { return nil }
        let list = words.list(bars.map { "\($0.name) \(Picture.seconds($0.seconds))" })
        let text = words("picture.stages.alt", ["list": list])
        return picture("picture.stages", .timeline(title: text, bars: bars), text, words)
    }

    private static func memory(_ details: RunDetails, _ words: Words) -> [String: Any]? {
        guard !details.tiers.isEmpty else { return nil }
        let tiers = details.tiers.map { tier in
            tier.named(words.name("tier", tier.name)) { words.name("part", $0) }
        }
        let text = tiers.map { tier in
            let parts = words.list(tier.parts.map { "\($0.name) \(Picture.bytes($0.bytes))" })
            return "\(tier.name): \(parts)"
        }.joined(separator: "; ")
        let svg = Picture.tiers(title: text, tiers: tiers) { used, limit in
            words("picture.of", ["used": used, "limit": limit])
        }
        return picture("picture.memory", svg, text, words)
    }

    private static func figures(_ details: RunDetails, _ words: Words) -> [[String: Any]?] {
        var pictures: [[String: Any]?] = []
        let rounded = details.isRounded ? " \(words("picture.rounded"))" : ""
        if let loss = details.curves.first(where: { $0.name == .loss }) {
            let text =
                words(
                    "picture.loss.words",
                    [
                        "first": hundredths(loss.values.first!), "last": hundredths(loss.values.last!),
                        "count": "\(loss.values.count)",
                    ]) + rounded
            let svg = Picture.lines(
                title: "\(words("picture.loss")): \(text)", series: [(words("run.figure.loss"), thinned(loss.values))],
                low: 0,
                high: max(loss.values.max()!, 0.01), firstEpoch: words("picture.epoch"),
                lastEpoch: loss.values.count, format: hundredths)
            pictures.append(picture("picture.loss", svg, text, words))
        }
        let shares = details.curves.filter { $0.name != .loss }.map {
            (name: words("picture.\($0.name.rawValue)"), values: $0.values.map { $0 * 100 })
        }
        if !shares.isEmpty {
            let text = words.list(shares.map { "\($0.name) \(Picture.number($0.values.last!)) %" }) + "." + rounded
            let svg = Picture.lines(
                title: "\(words("picture.accuracy")): \(text)", series: shares.map { ($0.name, thinned($0.values)) },
                low: 0, high: 100,
                firstEpoch: words("picture.epoch"), lastEpoch: shares[0].values.count,
                format: { "\(Picture.number($0)) %" })
            pictures.append(picture("picture.accuracy", svg, text, words))
        }
        return pictures
    }

    /// At most a few hundred of the values, the last among them: more than a picture has room for would only be sent.
    private static func thinned(_ values: [Double]) -> [Double] {
        let step = max((values.count + 299) / 300, 1)
        return values.indices.filter { ($0 - (values.count - 1)) % step == 0 }.map { values[$0] }
    }

    private static func hundredths(_ value: Double) -> String { "\((value * 100).rounded() / 100)" }
}
