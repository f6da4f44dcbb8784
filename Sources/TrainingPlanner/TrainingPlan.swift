package import Vocabulary

/// Where everything of a run lies, when it moves, and what that will cost. Made by `Planner.plan`.
package struct TrainingPlan: Sendable {
    /// A range of device memory.
    package struct Buffer: Hashable, Sendable {
        package let name: String
        package let offset: Int
        package let byteCount: Int
        /// Sweeps during which it holds something; `nil` for the whole run.
        package let lifetime: ClosedRange<Int>?
    }

    /// One way that was looked at.
    package struct Alternative: Hashable, Sendable {
        package let title: String
        package let deviceBytes: Int
        package let hostBytes: Int
        package let seconds: Double
        /// Why it was not taken; `nil` for the one that was.
        package let rejection: String?
    }

    package struct Forecast: Hashable, Sendable {
        /// Highest byte of device memory in use, over the run.
        package let deviceBytes: Int
        /// Sealed bytes that the enclave host keeps for the run: image and spilled tensors.
        package let hostBytes: Int
        /// What fetching everything at least once needs, before the first epoch.
        package let loadBytes: Int
        package let fetchedBytesPerEpoch: Int
        package let storedBytesPerEpoch: Int
        package let computeSecondsPerEpoch: Double
        package let linkSecondsPerEpoch: Double
        package let secondsPerEpoch: Double
    }

    package let image: ImageShape
    package let schedule: Schedule
    /// Chunk tensors have one buffer a slot.
    package let buffers: [Buffer]
    /// Buffers of each tensor, by tensor index: one, or one a slot.
    package let slots: [[Int]]
    /// Buffers of what lives for the whole run, by role.
    package let fixed: [Fixed: Int]
    package let forecast: Forecast
    package let why: [Alternative]

    package enum Fixed: String, CaseIterable, Sendable {
        case rowPointers, scale, labels, split, classWeights, parameters, gradients, firstMoments, secondMoments, best
        case trainScores, evaluateScores, total, bestState
    }

    package var model: ModelShape { schedule.model }
    package var cut: Cut { schedule.cut }
    package var chunks: Int { (image.nodes + cut.chunkRows - 1) / cut.chunkRows }

    /// Row chunks as ranges of graph rows.
    package var chunkRanges: [Range<Int>] {
        stride(from: 0, to: image.nodes, by: cut.chunkRows).map { $0..<min($0 + cut.chunkRows, image.nodes) }
    }

    /// Device bytes in use during each sweep of an epoch, for the picture of memory over time.
    package var deviceBytesBySweep: [(title: String, bytes: Int)] {
        schedule.sweeps.indices.map { sweep in
            let live = buffers.filter { $0.lifetime?.contains(sweep) ?? true }
            return (schedule.sweeps[sweep].title, live.reduce(0) { $0 + $1.byteCount })
        }
    }

    /// Bytes of spilled tensors on the enclave host, sealed, by window number.
    package var spillBytes: [Int] {
        var bytes: [Int] = []
        for tensor in schedule.tensors {
            guard case .spill(let number) = tensor.window else { continue }
            while bytes.count <= number { bytes.append(0) }
            bytes[number] = chunks * Planner.spillStride(tensor, cut)
        }
        return bytes
    }
}

extension TrainingPlan {
    /// The form that is hashed and recorded: seconds in microseconds.
    package var json: JSON {
        func integer(_ value: Int) -> JSON { .integer(Int64(value)) }
        func microseconds(_ seconds: Double) -> JSON { .integer(Int64((seconds * 1e6).rounded())) }
        return [
            "aggregation": .string(model.aggregation.rawValue),
            "widths": .array(model.widths.map(integer)),
            "orders": .array((1...model.layers).map { .string(model.order($0).rawValue) }),
            "nodes": integer(image.nodes),
            "edges": integer(image.edges),
            "chunkRows": integer(cut.chunkRows),
            "streamed": .array(cut.streamed.map(\.rawValue).sorted().map { .integer(Int64($0)) }),
            "placements": .object(cut.placements.mapValues { .string($0.rawValue) }),
            "buffers": .array(
                buffers.map {
                    ["name": .string($0.name), "offset": integer($0.offset), "bytes": integer($0.byteCount)]
                }),
            "forecast": [
                "deviceBytes": integer(forecast.deviceBytes),
                "hostBytes": integer(forecast.hostBytes),
                "loadBytes": integer(forecast.loadBytes),
                "fetchedBytesPerEpoch": integer(forecast.fetchedBytesPerEpoch),
                "storedBytesPerEpoch": integer(forecast.storedBytesPerEpoch),
                "computeMicrosecondsPerEpoch": microseconds(forecast.computeSecondsPerEpoch),
                "linkMicrosecondsPerEpoch": microseconds(forecast.linkSecondsPerEpoch),
                "microsecondsPerEpoch": microseconds(forecast.secondsPerEpoch),
            ],
            "why": .array(
                why.map {
                    [
                        "title": .string($0.title), "deviceBytes": integer($0.deviceBytes),
                        "hostBytes": integer($0.hostBytes), "microsecondsPerEpoch": microseconds($0.seconds),
                        "rejection": $0.rejection.map { .string($0) } ?? .null,
                    ]
                }),
        ]
    }

    /// A table for people: what was chosen, and what else was looked at.
    package var table: String {
        var lines = [
            "plan: \(cut.title(chunks: chunks))",
            "  device memory \(Planner.bytes(forecast.deviceBytes)), host \(Planner.bytes(forecast.hostBytes)), "
                + "load \(Planner.bytes(forecast.loadBytes)) once",
            "  an epoch: about \(Planner.seconds(forecast.secondsPerEpoch)), fetches "
                + "\(Planner.bytes(forecast.fetchedBytesPerEpoch)), stores \(Planner.bytes(forecast.storedBytesPerEpoch))",
            "why:",
        ]
        for alternative in why {
            lines.append(
                "  \(alternative.rejection == nil ? "→" : " ") \(alternative.title): "
                    + "\(Planner.bytes(alternative.deviceBytes)) on the device, "
                    + "\(Planner.seconds(alternative.seconds)) an epoch"
                    + (alternative.rejection.map { "; \($0)" } ?? "; chosen"))
        }
        return lines.joined(separator: "\n")
    }
}

extension Cut {
    package func title(chunks: Int) -> String {
        var parts: [String] = []
        if !streamed.isEmpty {
            parts.append(
                streamed.sorted { $0.rawValue < $1.rawValue }.map { "\($0)" }.joined(separator: ", ")
                    + " through windows")
        }
        for (name, placement) in placements.sorted(by: { $0.key < $1.key }) where placement != .device {
            parts.append("\(name) \(placement == .host ? "spilled" : "recomputed")")
        }
        let rows = "\(chunks) row chunk\(chunks == 1 ? "" : "s") of \(chunkRows)"
        return parts.isEmpty ? "all resident, \(rows)" : parts.joined(separator: ", ") + ", \(rows)"
    }
}
