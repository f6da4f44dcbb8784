/// Server-made SVG pictures for reports: no script, no font, no outside file. Colours come from the page's style sheet
/// so that one picture serves light and dark; every picture carries its text alternative.
package struct Picture {
    let title: String
    let width: Double
    let height: Double
    private var body = ""

    init(title: String, width: Double = 760, height: Double) {
        self.title = title
        self.width = width
        self.height = height
    }

    package var svg: String {
        """
        <svg role="img" viewBox="0 0 \(Self.number(width)) \(Self.number(height))" xmlns="http://www.w3.org/2000/svg">\
        <title>\(Self.escaped(title))</title>\(body)</svg>
        """
    }

    mutating func rectangle(x: Double, y: Double, width: Double, height: Double, kind: String, label: String = "") {
        body += """
            <rect class="\(kind)" x="\(Self.number(x))" y="\(Self.number(y))" width="\(Self.number(max(width, 0.5)))" \
            height="\(Self.number(height))" rx="2"><title>\(Self.escaped(label))</title></rect>
            """
    }

    mutating func text(_ words: String, x: Double, y: Double, anchor: String = "start", kind: String = "label") {
        body += """
            <text class="\(kind)" x="\(Self.number(x))" y="\(Self.number(y))" text-anchor="\(anchor)">\
            \(Self.escaped(words))</text>
            """
    }

    mutating func line(x1: Double, y1: Double, x2: Double, y2: Double, kind: String = "axis") {
        body += """
            <line class="\(kind)" x1="\(Self.number(x1))" y1="\(Self.number(y1))" x2="\(Self.number(x2))" \
            y2="\(Self.number(y2))"/>
            """
    }

    mutating func polyline(_ points: [(x: Double, y: Double)], kind: String) {
        let list = points.map { "\(Self.number($0.x)),\(Self.number($0.y))" }.joined(separator: " ")
        body += "<polyline class=\"\(kind)\" points=\"\(list)\"/>"
    }

    static func escaped(_ text: String) -> String {
        var out = ""
        for character in text {
            switch character {
            case "<": out += "&lt;"
            case ">": out += "&gt;"
            case "&": out += "&amp;"
            case "\"": out += "&quot;"
            case "'": out += "&#39;"
            default: out.append(character)
            }
        }
        return out
    }

    /// One decimal, as SVG wants it.
    package static func number(_ value: Double) -> String {
        let tenths = Int((value * 10).rounded())
        return tenths.isMultiple(of: 10) ? "\(tenths / 10)" : "\(Double(tenths) / 10)"
    }
}

// MARK: - Charts

extension Picture {
    /// A row of bars on a common time axis: what happened when.
    package static func timeline(title: String, bars: [(name: String, start: Double, seconds: Double)]) -> Picture {
        let rowHeight = 24.0
        let left = 90.0
        var picture = Picture(title: title, height: Double(bars.count) * rowHeight + 30)
        let end = max(bars.map { $0.start + $0.seconds }.max() ?? 1, 0.001)
        let scale = (picture.width - left - 90) / end
        for (row, bar) in bars.enumerated() {
            let y = Double(row) * rowHeight
            picture.text(bar.name, x: left - 8, y: y + 16, anchor: "end")
            picture.rectangle(
                x: left + bar.start * scale, y: y + 4, width: bar.seconds * scale, height: rowHeight - 8, kind: "bar",
                label: "\(bar.name): \(seconds(bar.seconds))")
            picture.text(
                seconds(bar.seconds), x: left + (bar.start + bar.seconds) * scale + 6, y: y + 16, kind: "figure")
        }
        let axis = Double(bars.count) * rowHeight + 4
        picture.line(x1: left, y1: axis, x2: left + end * scale, y2: axis)
        picture.text("0 s", x: left, y: axis + 16)
        picture.text(seconds(end), x: left + end * scale, y: axis + 16, anchor: "end")
        return picture
    }

    /// Lines over the epochs, each scaled to the same axis from `low` to `high`.
    /// - Parameters:
    ///   - firstEpoch: what stands at the start of the axis.
    ///   - lastEpoch: what stands at its end; the number of values where it is left out.
    package static func lines(
        title: String, series: [(name: String, values: [Double])], low: Double, high: Double,
        firstEpoch: String = "epoch 1", lastEpoch: Int? = nil, format: (Double) -> String
    ) -> Picture {
        var picture = Picture(title: title, height: 240)
        let left = 60.0
        let right = picture.width - 130
        let top = 10.0
        let bottom = 205.0
        let span = max(high - low, 1e-9)
        func y(_ value: Double) -> Double { bottom - (min(max(value, low), high) - low) / span * (bottom - top) }
        for step in 0...4 {
            let value = low + span * Double(step) / 4
            picture.line(x1: left, y1: y(value), x2: right, y2: y(value), kind: "grid")
            picture.text(format(value), x: left - 8, y: y(value) + 4, anchor: "end")
        }
        let count = series.map(\.values.count).max() ?? 0
        picture.text(firstEpoch, x: left, y: bottom + 20)
        picture.text("\(lastEpoch ?? count)", x: right, y: bottom + 20, anchor: "end")
        // Names stand at the ends of their lines, moved apart where they would touch.
        var lastNameAt = -100.0
        let byHeight = series.enumerated().sorted { ($0.element.values.last ?? 0) > ($1.element.values.last ?? 0) }
        for (place, one) in byHeight where !one.values.isEmpty {
            let step = (right - left) / Double(max(count - 1, 1))
            picture.polyline(
                one.values.enumerated().map { (x: left + Double($0.offset) * step, y: y($0.element)) },
                kind: "line line\(place)")
            let nameAt = max(y(one.values.last!) + 4, lastNameAt + 15)
            picture.text("\(one.name) \(format(one.values.last!))", x: right + 8, y: nameAt, kind: "name name\(place)")
            lastNameAt = nameAt
        }
        return picture
    }

    /// One horizontal bar for each tier: how much is used of what there is.
    /// - Parameter share: how "used of limit" is said.
    package static func tiers(
        title: String, tiers: [MemoryTier],
        share: (_ used: String, _ limit: String) -> String = { "\($0) of \($1)" }
    ) -> Picture {
        let rowHeight = 46.0
        let left = 90.0
        var picture = Picture(title: title, height: Double(tiers.count) * rowHeight + 6)
        let used = tiers.map { $0.parts.map(\.bytes).reduce(0, +) }
        // Room that is far beyond what is used would leave nothing to see; the words tell it then.
        let roomMax = (used.max() ?? 1) * 4
        let widest = zip(tiers, used).map { tier, used in max(used, min(tier.limit ?? 0, roomMax)) }.max() ?? 1
        let scale = (picture.width - left - 20) / Double(max(widest, 1))
        for (row, tier) in tiers.enumerated() {
            let y = Double(row) * rowHeight
            picture.text(tier.name, x: left - 8, y: y + 18, anchor: "end")
            if let limit = tier.limit, limit <= roomMax {
                picture.rectangle(
                    x: left, y: y + 4, width: Double(limit) * scale, height: 20, kind: "room",
                    label: "\(tier.name): \(share(bytes(used[row]), bytes(limit)))")
            }
            var x = left
            for (place, part) in tier.parts.enumerated() where part.bytes > 0 {
                picture.rectangle(
                    x: x, y: y + 4, width: Double(part.bytes) * scale, height: 20, kind: "part part\(place % 6)",
                    label: "\(part.name): \(bytes(part.bytes))")
                x += Double(part.bytes) * scale
            }
            let words = tier.limit.map { share(bytes(used[row]), bytes($0)) } ?? bytes(used[row])
            picture.text(words, x: left, y: y + 39, kind: "figure")
        }
        return picture
    }

    package static func seconds(_ value: Double) -> String {
        value < 0.0995 ? "\(number(value * 1000)) ms" : "\(number(value)) s"
    }

    package static func bytes(_ count: Int) -> String {
        switch count {
        case ..<1024: "\(count) B"
        case ..<(1 << 20): "\(number(Double(count) / 1024)) KiB"
        case ..<(1 << 30): "\(number(Double(count) / 1_048_576)) MiB"
        default: "\(number(Double(count) / 1_073_741_824)) GiB"
        }
    }
}
