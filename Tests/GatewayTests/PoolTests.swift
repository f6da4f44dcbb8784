import AuditTrail
import Foundation
import Gateway
import TestSupport
import Testing
import Vocabulary

/// What an operator does with nodes, and who gets one next.
@Suite struct PoolTests {
    @Test("a drained node takes no new run, its run waits, and goes on once the node is released")
    func drained() async throws {
        try await withEnclave { enclave in
            let node = try NodeID("campus-1")
            let run = try await enclave.request(enclave.grant())
            try await enclave.gateway.drainNode(node, by: enclave.operatorPerson)
            #expect(try await enclave.nodeStates() == ["drained"])
            let busy = await refusal { _ = try await enclave.gateway.advanceAsFarAsPossible(run) }
            #expect(busy?.code == .busy)
            #expect(try await enclave.gateway.deviceLine(by: enclave.operatorPerson).map(\.run) == [run])
            let twice = await refusal { try await enclave.gateway.drainNode(node, by: enclave.operatorPerson) }
            #expect(twice?.code == .usage)
            try await enclave.reopen()
            #expect(try await enclave.nodeStates() == ["drained"])
            try await enclave.gateway.releaseFromQuarantine(node, by: enclave.operatorPerson)
            #expect(try await enclave.finish(run) == .closed(.released))
            #expect(try await enclave.gateway.deviceLine(by: enclave.operatorPerson).isEmpty)
        }
    }

    @Test("an operator's quarantine is recorded with its reason, holds over a restart, and ends by an attestation")
    func quarantined() async throws {
        try await withEnclave { enclave in
            let node = try NodeID("campus-1")
            let run = try await enclave.request(enclave.grant())
            try await enclave.advance(run, to: .plan)
            let held = await refusal {
                try await enclave.gateway.quarantineNode(node, reason: "disk-swapped", by: enclave.operatorPerson)
            }
            #expect(held?.publicDescription.contains("held by run-1") == true)
            let report = try await enclave.gateway.node(node, by: enclave.operatorPerson)
            let holder = try #require(report.summary.holder)
            #expect(holder.run == run && report.links.count == 1)
            // Renewed for less than its whole time ahead; given back by the end of the grant at the latest.
            let leaseUntil = try #require(holder.leaseUntil)
            #expect(leaseUntil <= enclave.clock.now().adding(seconds: 3))
            #expect(try #require(holder.endsBy) > leaseUntil)
            #expect(report.summary.answered != nil && report.summary.silentSince == nil)
            #expect(try await enclave.finish(run) == .closed(.released))

            for reason in ["", "Disk", "a b", "-x", String(repeating: "a", count: 65)] {
                let refused = await refusal {
                    try await enclave.gateway.quarantineNode(node, reason: reason, by: enclave.operatorPerson)
                }
                #expect(refused?.code == .usage)
            }
            let stranger = await refusal {
                try await enclave.gateway.quarantineNode(node, reason: "disk-swapped", by: enclave.researcher)
            }
            #expect(stranger?.code == .refused)
            try await enclave.gateway.quarantineNode(node, reason: "disk-swapped", by: enclave.operatorPerson)
            let records = try await enclave.own(.nodeQuarantined)
            #expect(records.last?.reasons == ["operator", "disk-swapped"])
            #expect(records.last?.actor == enclave.operatorPerson)
            try await enclave.reopen()
            #expect(try await enclave.nodeStates() == ["quarantined (disk-swapped)"])
            let measured = await refusal {
                _ = try await enclave.gateway.measureNode(node, by: enclave.operatorPerson)
            }
            #expect(measured?.code == .refused)
            try await enclave.gateway.releaseFromQuarantine(node, by: enclave.operatorPerson)
            #expect(try await enclave.gateway.node(node, by: enclave.operatorPerson).quarantine == nil)
        }
    }

    @Test("a measured link is recorded and kept beside the links of attachments, newest first")
    func measured() async throws {
        try await withEnclave { enclave in
            let node = try NodeID("campus-1")
            let run = try await enclave.request(enclave.grant())
            #expect(try await enclave.finish(run) == .closed(.released))
            let link = try await enclave.gateway.measureNode(node, by: enclave.operatorPerson)
            #expect(link.megabytesPerSecond > 0 && link.jitterMicroseconds != nil)
            let links = try await enclave.gateway.node(node, by: enclave.operatorPerson).links
            #expect(links.count == 2)
            #expect(links.map { $0.jitterMicroseconds == nil } == [false, true])
            #expect(try await enclave.nodeStates() == ["free"])
        }
    }

    @Test("a project at its quota waits although a node is free, and others do not wait behind it")
    func quota() async throws {
        try await withEnclave { enclave in
            let second = try await enclave.startNode("campus-2")
            let grant = try await enclave.grant()
            let inventory = """
                version: 1
                nodes: {}
                quotas: { devices: 1 }
                """
            _ = try await enclave.gateway.applyInventory(inventory, by: enclave.operatorPerson)
            let first = try await enclave.request(grant)
            try await enclave.advance(first, to: .train)
            let waiting = try await enclave.request(grant, id: "run-2")
            let busy = await refusal { _ = try await enclave.gateway.advanceAsFarAsPossible(waiting) }
            #expect(busy?.publicDescription.contains("1 devices that it may have at once") == true)
            try await enclave.advance(first, to: .review)
            #expect(try await enclave.finish(waiting) == .closed(.released))
            withExtendedLifetime(second) {}
        }
    }

    @Test("an inventory is applied once: nodes changed or unchanged, quotas recorded, unnamed nodes left alone")
    func inventory() async throws {
        try await withEnclave { enclave in
            let node = try await enclave.startNode("campus-2")
            let report = try await enclave.gateway.node(node.id, by: enclave.operatorPerson)
            let measurements = report.measurements.map { "\($0): \"\($1.hex)\"" }.joined(separator: ", ")
            func text(_ pool: String) -> String {
                """
                version: 1
                nodes:
                  campus-2: { address: "\(node.address)", pool: \(pool), measurements: { \(measurements) } }
                quotas: { devices: 3, projects: { "cancer-map": 4 } }
                """
            }
            let same = try await enclave.gateway.applyInventory(text("campus"), by: enclave.operatorPerson)
            #expect(same.unchanged == [node.id] && same.changed.isEmpty && same.unnamed.map(\.text) == ["campus-1"])
            let other = try await enclave.gateway.applyInventory(text("annex"), by: enclave.operatorPerson)
            #expect(other.changed == [node.id])
            #expect(try await enclave.gateway.node(node.id, by: enclave.operatorPerson).summary.pool == "annex")
            #expect(try await enclave.own(.quotasChanged).count == 1)
            let stranger = await refusal {
                _ = try await enclave.gateway.applyInventory(text("campus"), by: enclave.researcher)
            }
            #expect(stranger?.code == .refused)
            let unknown = text("campus").replacing("campus-2", with: "campus-9")
            let missing = await refusal {
                _ = try await enclave.gateway.applyInventory(unknown, by: enclave.operatorPerson)
            }
            #expect(missing?.publicDescription.contains("campus-9 has no identity") == true)
        }
    }

    @Test("the example inventory reads as it says")
    func example() throws {
        let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .appendingPathComponent("../../config/fabric.yaml")
        let inventory = try FabricInventory(parsing: String(contentsOf: file, encoding: .utf8))
        #expect(inventory.nodes.map(\.pool) == ["campus"])
        #expect(inventory.quotas == DeviceQuotas(defaultDevices: 2, projects: ["campus-cancer-map": 4]))
    }

    @Test(
        "an inventory that is wrong is refused with its place",
        arguments: [
            ("", "1:1"), ("version: 2\nnodes: {}", "1:10"), ("version: 1", "1:1"), ("version: 1\nnode: {}", "2:1"),
            ("version: 1\nnodes: {}\nnodes: {}", "3:1"), ("version: 1\nnodes: []", "2:8"),
            ("version: 1\nnodes: { \"a b\": {} }", "2:10"), ("version: 1\nnodes: { n-1: {} }", "2:10"),
            ("version: 1\nnodes: { n-1: { address: nowhere, pool: p, measurements: { a: b } } }", "2:26"),
            ("version: 1\nnodes: { n-1: { address: \"h:1\", pool: p, measurements: { agent: b } } }", "2:65"),
            ("version: 1\nnodes: { n-1: { address: \"h:1\", pool: p, measurements: {} } }", "2:56"),
            ("version: 1\nnodes: { n-1: { adress: \"h:1\" } }", "2:17"),
            ("version: 1\nnodes: {}\nquotas: { devices: 0 }", "3:20"),
            ("version: 1\nnodes: {}\nquotas: { devices: \"1\" }", "3:20"),
            ("version: 1\nnodes: {}\nquotas: { projects: { x: 1001 } }", "3:26"),
            ("version: 1\nnodes: &a {}\nquotas: *a", "2:8"),
        ])
    func wrongInventory(_ text: String, _ place: String) {
        let error = #expect(throws: GatewayError.self) { _ = try FabricInventory(parsing: text) }
        #expect(error?.publicDescription.hasPrefix("inventory \(place): ") == true, "\(error?.publicDescription ?? "")")
    }

    @Test("no change of an inventory's bytes makes its reader do anything but read or refuse")
    func mutatedInventory() throws {
        let text = """
            version: 1
            nodes:
              campus-1: { address: "h:1", pool: p, measurements: { agent: "\(String(repeating: "a", count: 64))" } }
            quotas: { devices: 2, projects: { x: 4 } }
            """
        let seed = UInt64.random(in: 0...UInt64.max)
        var random = SeededRandom(seed: seed)
        for _ in 0..<2000 {
            var bytes = Array(text.utf8)
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                bytes[Int.random(in: bytes.indices, using: &random)] = UInt8.random(in: 0...255, using: &random)
            }
            do throws(GatewayError) { _ = try FabricInventory(parsing: String(decoding: bytes, as: UTF8.self)) } catch {
                #expect(error.publicDescription.hasPrefix("inventory "), "seed \(seed)")
            }
        }
    }
}

/// The line for devices, as a pure value.
@Suite struct DeviceLineTests {
    private func waiting(
        _ run: String, _ person: String, asked: UInt64, project: String? = nil, pools: Set<String> = ["campus"]
    ) throws -> DeviceLine.Waiting {
        DeviceLine.Waiting(
            run: try RunID(run), person: try PersonID(person), project: project, asked: asked, pools: pools)
    }

    private func holding(
        _ run: String, _ person: String, left: Int?, project: String? = nil
    ) throws -> DeviceLine.Holding {
        DeviceLine.Holding(
            run: try RunID(run), person: try PersonID(person), project: project, pool: "campus", secondsLeft: left)
    }

    @Test("people take turns: ten runs of one do not hold up the first of another")
    func turns() throws {
        let many = try (1...10).map { try waiting("a-\($0)", "ann", asked: UInt64($0)) }
        let line = DeviceLine(
            waiting: many + [try waiting("b-1", "bob", asked: 99)], holding: [try holding("a-0", "ann", left: 60)],
            free: [:], quotas: DeviceQuotas())
        #expect(line.place(of: try RunID("b-1")) == 1)
        #expect(line.place(of: try RunID("a-1")) == 2)
        #expect(line.place(of: try RunID("a-10")) == 11)
    }

    @Test("as many may take a device as are free, in the order of their turns, each in its own pools")
    func free() throws {
        let line = DeviceLine(
            waiting: [
                try waiting("r-1", "ann", asked: 1), try waiting("r-2", "bob", asked: 2),
                try waiting("r-3", "cat", asked: 3, pools: ["annex"]), try waiting("r-4", "dan", asked: 4),
            ], holding: [], free: ["campus": 2, "annex": 1], quotas: DeviceQuotas())
        let hindered = try ["r-1", "r-2", "r-3", "r-4"].map { line.hindrance(of: try RunID($0)) }
        #expect(hindered == [nil, nil, nil, .line])
    }

    @Test("a run at its project's quota waits, and whoever comes after it does not wait for it")
    func quota() throws {
        let line = DeviceLine(
            waiting: [
                try waiting("r-1", "ann", asked: 1, project: "map"), try waiting("r-2", "bob", asked: 2),
            ], holding: [try holding("r-0", "cat", left: nil, project: "map")], free: ["campus": 1],
            quotas: DeviceQuotas(projects: ["map": 1]))
        #expect(line.hindrance(of: try RunID("r-1")) == .quota(1))
        #expect(line.hindrance(of: try RunID("r-2")) == nil)
    }

    @Test("the estimate adds up those before: what is held ends, what is next takes as long as usual")
    func estimate() throws {
        let line = DeviceLine(
            waiting: [
                try waiting("r-1", "ann", asked: 1), try waiting("r-2", "bob", asked: 2),
                try waiting("r-3", "cat", asked: 3),
            ], holding: [try holding("h-1", "dan", left: 30), try holding("h-2", "eve", left: 100)], free: [:],
            quotas: DeviceQuotas())
        let estimates = try ["r-1", "r-2", "r-3"].map { line.secondsUntilTurn(of: try RunID($0), usual: 50) }
        #expect(estimates == [30, 80, 100])
        #expect(line.secondsUntilTurn(of: try RunID("r-3"), usual: nil) == nil)
    }

    @Test("nobody starves: whoever waits has a device after as many turns as runs waited before them")
    func fair() throws {
        let seed = UInt64.random(in: 0...UInt64.max)
        var random = SeededRandom(seed: seed)
        for _ in 0..<200 {
            let people = (0..<Int.random(in: 1...5, using: &random)).map { "person-\($0)" }
            var left = try (0..<Int.random(in: 1...20, using: &random)).map {
                try waiting("r-\($0)", people.randomElement(using: &random)!, asked: UInt64($0))
            }
            var served: [RunID] = []
            let count = left.count
            while !left.isEmpty {
                let line = DeviceLine(
                    waiting: left, holding: [], free: ["campus": 1], quotas: DeviceQuotas(defaultDevices: 1))
                let able = left.filter { line.hindrance(of: $0.run) == nil }
                #expect(able.count == 1, "seed \(seed)")
                served += able.map(\.run)
                left.removeAll { able.contains($0) }
                guard served.count <= count, !able.isEmpty else { break }
            }
            #expect(served.count == count, "seed \(seed)")
        }
    }
}
