package import Vocabulary

extension TrainingPlan {
    /// The form that is hashed and recorded: seconds in microseconds.
    package var json: JSON {
        [
            "aggregation": .string(model.aggregation.rawValue),
            "widths": .array(model.widths.map(integer)),
            "orders": .array((1...model.layers).map { .string(model.order($0).rawValue) }),
            "nodes": integer(image.nodes),
            "edges": integer(image.edges),
            "chunkRows": integer(cut.chunkRows),
            "ways": .object(
                cut.ways.mapValues { way in
                    switch way {
                    case .device: "device"
                    case .moved(let resident): ["moved": .bool(true), "residentChunks": integer(resident)]
                    case .recompute: "recompute"
                    }
                }),
            "sliceWidths": .object(cut.sliceWidths.mapValues(integer)),
            "fetchesNodeSections": .bool(cut.fetchesNodeSections), "takesTurns": .bool(cut.takesTurns),
            "headGroups": integer(cut.form.headGroups), "repeatsSources": .bool(cut.form.repeatsSources),
            "splitsEnds": .bool(cut.form.splitsEnds),
            "buffers": .array(
                buffers.map { buffer in
                    [
                        "name": .string(buffer.name), "offset": integer(buffer.offset),
                        "bytes": integer(buffer.byteCount),
                        "passes": buffer.lifetime.map { .array([integer($0.lowerBound), integer($0.upperBound)]) }
                            ?? .null,
                    ]
                }),
            "spilled": .array(
                layout.values.indices.compactMap { value in
                    guard let place = spills.places[value], let lifetime = layout.storage[value].spilled else {
                        return nil
                    }
                    return [
                        "name": .string(layout.values[value].name), "tier": .string(place.tier.rawValue),
                        "offset": integer(place.offset), "bytes": integer(layout.spillBytes(value)),
                        "passes": .array([integer(lifetime.lowerBound), integer(lifetime.upperBound)]),
                    ]
                }),
            "passes": .array(
                costs.indices.filter { !passes[$0].isEmpty }.map { pass in
                    let cost = costs[pass]
                    return [
                        "pass": integer(pass), "title": .string(cost.title),
                        "microseconds": microseconds(seconds[pass].pass),
                        "computeMicroseconds": microseconds(seconds[pass].compute),
                        "fetchedBytes": integer(cost.fetchedBytes), "storedBytes": integer(cost.storedBytes),
                        "ssdReadBytes": integer(cost.ssdReadBytes), "ssdWrittenBytes": integer(cost.ssdWrittenBytes),
                        "deviceBytes": integer(cost.deviceBytes), "hostBytes": integer(cost.hostBytes),
                        "ssdBytes": integer(cost.ssdBytes),
                    ]
                }),
            "forecast": [
                "deviceBytes": integer(forecast.deviceBytes),
                "hostBytes": integer(forecast.hostBytes),
                "ssdBytes": integer(forecast.ssdBytes),
                "imageBytes": integer(forecast.imageBytes),
                "loadBytes": integer(forecast.loadBytes),
                "fetchedBytesPerEpoch": integer(forecast.fetchedBytesPerEpoch),
                "storedBytesPerEpoch": integer(forecast.storedBytesPerEpoch),
                "computeMicrosecondsPerEpoch": microseconds(forecast.computeSecondsPerEpoch),
                "linkMicrosecondsPerEpoch": microseconds(forecast.linkSecondsPerEpoch),
                "ssdMicrosecondsPerEpoch": microseconds(forecast.ssdSecondsPerEpoch),
                "sealingMicrosecondsPerEpoch": microseconds(forecast.sealingSecondsPerEpoch),
                "microsecondsPerEpoch": microseconds(forecast.secondsPerEpoch),
            ],
            "why": .array(
                why.map {
                    [
                        "title": .string($0.title), "deviceBytes": integer($0.deviceBytes),
                        "hostBytes": integer($0.hostBytes), "ssdBytes": integer($0.ssdBytes),
                        "microsecondsPerEpoch": microseconds($0.seconds),
                        "rejection": $0.rejection.map { .string($0) } ?? .null,
                    ]
                }),
        ]
    }

    private func integer(_ value: Int) -> JSON { .integer(Int64(value)) }
    private func microseconds(_ seconds: Double) -> JSON { .integer(Int64((min(seconds, 1e9) * 1e6).rounded())) }

    /// A table for people: what was chosen and what else was looked at, where each tensor lies when, and what each pass
    /// takes of each resource.
    package var table: String {
        var lines = [
            "plan: \(cut.title(chunks: chunks))",
            "  device memory \(Planner.bytes(forecast.deviceBytes)), host \(Planner.bytes(forecast.hostBytes)), "
                + "SSD \(Planner.bytes(forecast.ssdBytes)), load \(Planner.bytes(forecast.loadBytes)) once",
            "  an epoch: about \(Planner.seconds(forecast.secondsPerEpoch)), fetches "
                + "\(Planner.bytes(forecast.fetchedBytesPerEpoch)), stores "
                + Planner.bytes(forecast.storedBytesPerEpoch),
            "  by resource: compute \(Planner.seconds(forecast.computeSecondsPerEpoch)), link "
                + "\(Planner.seconds(forecast.linkSecondsPerEpoch)), SSD "
                + "\(Planner.seconds(forecast.ssdSecondsPerEpoch)), sealing "
                + Planner.seconds(forecast.sealingSecondsPerEpoch),
            "why:",
        ]
        for alternative in why {
            lines.append(
                "  \(alternative.rejection == nil ? "→" : " ") \(alternative.title): "
                    + "\(Planner.bytes(alternative.deviceBytes)) on the device, "
                    + "\(Planner.seconds(alternative.seconds)) an epoch"
                    + (alternative.rejection.map { "; \($0)" } ?? "; chosen"))
        }
        lines.append("passes:")
        for pass in costs.indices where !passes[pass].isEmpty {
            let cost = costs[pass]
            lines.append(
                "  \(pass) \(cost.title): compute \(Planner.seconds(cost.computeSeconds)), fetches "
                    + "\(Planner.bytes(cost.fetchedBytes)), stores \(Planner.bytes(cost.storedBytes)); device "
                    + "\(Planner.bytes(cost.deviceBytes)), host \(Planner.bytes(cost.hostBytes)), SSD "
                    + Planner.bytes(cost.ssdBytes))
        }
        lines.append("tensors:")
        for value in layout.values.indices {
            if let text = places(value) { lines.append("  \(layout.values[value].name): \(text)") }
        }
        return lines.joined(separator: "\n")
    }

    /// Where a value lies over the passes; `nil` for one that lives inside one pass only.
    private func places(_ value: ValueIndex) -> String? {
        let storage = layout.storage[value]
        var parts: [String] = layout.wholes[storage.whole].map { "device, passes \($0.lowerBound)–\($0.upperBound)" }
        if let resident = storage.resident, storage.residentChunks > 0 {
            let share =
                storage.residentChunks < chunks ? " (\(storage.residentChunks) of \(chunks) chunks)" : ""
            parts.append(
                layout.values[value].section == nil
                    ? "device\(share), passes \(resident.lowerBound)–\(resident.upperBound)" : "device\(share), always")
        }
        if layout.values[value].section != nil, storage.residentChunks < chunks {
            parts.append("run image, fetched by chunk")
        }
        if let spilled = storage.spilled, let place = spills.places[value] {
            let slices = storage.sliceWidth > 0 ? " in slices of \(storage.sliceWidth)" : ""
            parts.append("\(place.tier.rawValue)\(slices), passes \(spilled.lowerBound)–\(spilled.upperBound)")
        }
        if layout.decision.ways[value] == .recompute { parts.append("recomputed where it is used again") }
        return parts.isEmpty ? nil : parts.joined(separator: "; ")
    }
}

extension Planner {
    static func bytes(_ count: Int) -> String {
        let units = ["B", "KiB", "MiB", "GiB", "TiB"]
        var value = Double(count)
        var unit = 0
        while value >= 1024, unit < units.count - 1 {
            value /= 1024
            unit += 1
        }
        return unit == 0 ? "\(count) B" : "\(tenths(value)) \(units[unit])"
    }

    static func seconds(_ value: Double) -> String {
        value < 1 ? "\(tenths(value * 1000)) ms" : "\(tenths(value)) s"
    }

    private static func tenths(_ value: Double) -> String {
        let scaled = Int((min(value, 1e12) * 10).rounded())
        return "\(scaled / 10).\(abs(scaled % 10))"
    }
}
