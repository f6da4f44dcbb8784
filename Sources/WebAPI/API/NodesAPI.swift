import Gateway
import Vocabulary

// MARK: - Nodes

extension API {
    func nodes(_ call: APICall, _ person: PersonID) async throws -> APIReply {
        switch call.route {
        case .apiNodeAdd:
            try call.expectNoQuery()
            let node: NodeID = try call.id("node")
            var fields = try Fields(body: call.body)
            let address = try fields.text("address", lengthMax: 300)
            let pool: DatasetID = try fields.id("pool")
            let measurements = fields.json("measurements") ?? .object([:])
            try fields.finish()
            try await gateway.addNode(
                node, address: address, pool: pool.text, measurements: measurements.canonicalText, by: person)
            return APIReply(json: ["node": .string(node.text), "pool": .string(pool.text)])
        case .apiNodeReinstate:
            try call.expectNothingMore()
            let node: NodeID = try call.id("node")
            try await gateway.releaseFromQuarantine(node, by: person)
            return APIReply(json: ["node": .string(node.text)])
        case .apiNode:
            try call.expectNothingMore()
            return APIReply(json: try await gateway.node(call.id("node"), by: person).json)
        case .apiNodeDrain:
            try call.expectNothingMore()
            let node: NodeID = try call.id("node")
            try await gateway.drainNode(node, by: person)
            return APIReply(json: try await gateway.node(node, by: person).json)
        case .apiNodeQuarantine:
            try call.expectNoQuery()
            let node: NodeID = try call.id("node")
            var fields = try Fields(body: call.body)
            let reason = try fields.text("reason", lengthMax: 64)
            try fields.finish()
            try await gateway.quarantineNode(node, reason: reason, by: person)
            return APIReply(json: try await gateway.node(node, by: person).json)
        case .apiNodeMeasure:
            try call.expectNothingMore()
            return APIReply(json: try await gateway.measureNode(call.id("node"), by: person).json)
        case .apiDeviceLine:
            try call.expectNothingMore()
            return APIReply(json: ["waiting": .array(try await gateway.deviceLine(by: person).map(\.json))])
        case .apiInventory:
            try call.expectNoQuery()
            var fields = try Fields(body: call.body)
            let text = try fields.text("inventory", lengthMax: 262_144)
            try fields.finish()
            return APIReply(json: try await gateway.applyInventory(text, by: person).json)
        default:
            var query = try Fields(query: call.query)
            let page = try query.page(order: .oldest)
            try query.finish()
            return APIReply(json: try await gateway.nodes(page, by: person).json(\.json))
        }
    }
}

extension NodeReport {
    fileprivate var json: JSON {
        var members = summary.json.objectValue ?? [:]
        members["quarantine"] =
            quarantine.map { quarantine in
                [
                    "code": .string(quarantine.code), "index": quarantine.index.map(JSON.count) ?? .null,
                    "since": .string(quarantine.since.description),
                ]
            } ?? .null
        members["links"] = .array(links.map(\.json))
        members["measurements"] = .object(measurements.mapValues { .string($0.hex) })
        return .object(members)
    }
}

extension NodeReport.Link {
    fileprivate var json: JSON {
        [
            "at": .string(at.description), "rtt_microseconds": .count(roundTripMicroseconds),
            "jitter_microseconds": jitterMicroseconds.map(JSON.count) ?? .null,
            "megabytes_per_second": .count(megabytesPerSecond),
        ]
    }
}

extension LinePlace {
    fileprivate var json: JSON {
        [
            "run": .string(run.text), "researcher": .string(researcher.text), "place": .count(place),
            "pools": .strings(pools), "seconds_left": secondsLeft.map(JSON.count) ?? .null,
        ]
    }
}

extension InventoryChange {
    fileprivate var json: JSON {
        func names(_ nodes: [NodeID]) -> JSON { .strings(nodes.map(\.text)) }
        return [
            "added": names(added), "changed": names(changed), "unchanged": names(unchanged),
            "unnamed": names(unnamed),
        ]
    }
}
