import AuditTrail
import Foundation
import Gateway
import TestSupport
import Testing
import Vocabulary

/// The gateway is killed, in a process of its own, and started again from what is on the disk.
@Suite struct CrashTests {
    /// What an uninterrupted run writes and comes to.
    private func uninterrupted(
        _ enclave: Enclave, _ grant: GrantID, epochs: Int = 3
    ) async throws -> (story: [String], weights: String?) {
        let run = try await enclave.request(grant, id: "whole", specification: Clinic.specification(epochs: epochs))
        #expect(try await enclave.finish(run) == .closed(.released))
        return (try await enclave.story(run), try await enclave.weights(run))
    }

    private func check(
        _ run: RunID, _ enclave: Enclave, against whole: (story: [String], weights: String?), _ words: Comment
    ) async throws {
        #expect(try await enclave.story(run) == whole.story, words)
        #expect(try await enclave.weights(run) == whole.weights, words)
        let nodes = try await enclave.nodeStates()
        #expect(nodes == ["free"], words)
    }

    @Test("killed after any one arrow, a run finishes with the same records and weights", arguments: RunStage.allCases)
    func oneArrow(_ stage: RunStage) async throws {
        try await withEnclave { enclave in
            let grant = try await enclave.grant()
            let whole = try await uninterrupted(enclave, grant)
            let run = try await enclave.request(grant, id: "killed")
            if stage >= .release {
                _ = try await enclave.gateway.advanceAsFarAsPossible(run)
                try await enclave.review(run)
            }
            enclave.drop()
            await #expect(processExitsWith: .signal(SIGKILL)) {
                [home = enclave.home.path as String, key = enclave.key.path as String, stage = stage.rawValue as String]
                in
                let gateway = try await Enclave.open(
                    URL(fileURLWithPath: home, isDirectory: true), URL(fileURLWithPath: key), TestClock())
                let run = try RunID("killed")
                while true {
                    let next = try await gateway.runCase(run).nextStage
                    let progress = try await gateway.advance(run)
                    if next.rawValue == stage { kill(getpid(), SIGKILL) }
                    // A run that ends before that stage must not be waited for.
                    if case .closed = progress { return }
                }
            }
            try await enclave.open()
            #expect(try await enclave.finish(run) == .closed(.released))
            try await check(run, enclave, against: whole, "killed after \(stage)")
        }
    }

    /// Each process lives for some readings of the clock, of which every record takes a few, and the next one for one
    /// reading more: the crashes fall between an intent, its effect and its outcome, and inside the writing of each.
    @Test("killed again and again between any two records, a run finishes the same", arguments: [4, 5, 6])
    func anyInstant(_ first: Int) async throws {
        try await withEnclave { enclave in
            let grant = try await enclave.grant()
            let whole = try await uninterrupted(enclave, grant)
            let run = try await enclave.request(grant, id: "killed")
            var lives = 0
            while true {
                if try await enclave.gateway.runCase(run).isClosed { break }
                if case .waiting? = try await waiting(run, enclave) { try await enclave.review(run) }
                enclave.drop()
                lives += 1
                try #require(lives < 40, "no progress")
                await #expect(processExitsWith: .signal(SIGKILL)) {
                    [
                        home = enclave.home.path as String, key = enclave.key.path as String,
                        readings = (first + lives) as Int
                    ] in
                    let clock = TestClock()
                    let gateway = try await Enclave.open(
                        URL(fileURLWithPath: home, isDirectory: true), URL(fileURLWithPath: key), clock)
                    clock.killProcess(afterReadings: readings)
                    _ = try await gateway.advanceAsFarAsPossible(RunID("killed"))
                    kill(getpid(), SIGKILL)
                }
                try await enclave.open()
            }
            #expect(lives > 3)
            try await check(run, enclave, against: whole, "the first process for \(first) readings")
        }
    }

    /// A run of many epochs whose process is killed some readings of the clock, which every epoch's record takes, after
    /// its first checkpoint was kept.
    private func killedInTraining(_ enclave: Enclave, _ grant: GrantID, afterReadings readings: Int) async throws
        -> RunID
    {
        let run = try await enclave.request(grant, id: "killed", specification: Clinic.specification(epochs: 12))
        // The device is leased by the process that is killed: whoever drops a lease quarantines its node.
        enclave.drop()
        await #expect(processExitsWith: .signal(SIGKILL)) {
            [home = enclave.home.path as String, key = enclave.key.path as String, readings = readings as Int] in
            let clock = TestClock()
            let home = URL(fileURLWithPath: home, isDirectory: true)
            let gateway = try await Enclave.open(home, URL(fileURLWithPath: key), clock)
            clock.killProcess(
                afterReadings: readings, since: home.appendingPathComponent("vault/runs/killed/checkpoint.sealed"))
            _ = try await gateway.advanceAsFarAsPossible(RunID("killed"))
        }
        try await enclave.open()
        return run
    }

    @Test(
        "killed between epochs, a run goes on from its last sealed checkpoint to the same weights, bit for bit",
        arguments: [1, 5, 9])
    func checkpoint(_ readings: Int) async throws {
        try await withEnclave { enclave in
            let grant = try await enclave.grant()
            let whole = try await uninterrupted(enclave, grant, epochs: 12)
            let run = try await killedInTraining(enclave, grant, afterReadings: readings)
            let before = try await enclave.records(.run(run)).filter { $0.event == .trainingEpoch }.count
            #expect((1..<12).contains(before))
            #expect(try await enclave.finish(run) == .closed(.released))
            try await check(run, enclave, against: whole, "killed at epoch \(before)")
            let resumed = try await enclave.own(.trainingResumed)
            #expect(resumed.count == 1)
            let after = resumed.first?.detail["after_epoch"]?.integerValue ?? 0
            #expect((1...Int64(before)).contains(after))
        }
    }

    @Test("a checkpoint that was changed on the disk ends the run; nothing is trained from it")
    func damagedCheckpoint() async throws {
        try await withEnclave { enclave in
            let grant = try await enclave.grant()
            let run = try await killedInTraining(enclave, grant, afterReadings: 1)
            let file = enclave.home.appendingPathComponent("vault/runs/killed/checkpoint.sealed")
            var bytes = try Data(contentsOf: file)
            bytes[bytes.count / 2] ^= 1
            try bytes.write(to: file)
            #expect(try await enclave.finish(run) == .closed(.failed))
            #expect(try await enclave.gateway.runCase(run).stopReasons == ["tampered"])
            #expect(try await enclave.weights(run) == nil)
        }
    }

    /// Whether a run has a checked candidate that nobody has reviewed.
    private func waiting(_ run: RunID, _ enclave: Enclave) async throws -> RunProgress? {
        let keys = try await enclave.gateway.runCase(run).file.keys
        return keys.contains("checked") && !keys.contains { $0.hasPrefix("reviewed.") } ? .waiting(for: "reviews") : nil
    }

    @Test(
        "the command line, killed in any stage, resumes the run",
        arguments: [RunStage.open, .attach, .plan, .train, .scrub])
    func commandLine(_ stage: RunStage) async throws {
        try await withEnclave { enclave in
            let grant = try await enclave.grant()
            let whole = try await uninterrupted(enclave, grant)
            enclave.drop()
            let specification = enclave.folder.appendingPathComponent("gcn.yaml")
            try Data(Clinic.specification().utf8).write(to: specification)
            let home = ["SEKISHO_HOME": enclave.home.path, "SEKISHO_KEY_FILE": enclave.key.path]
            let (process, errors) = try Child.start(
                "sekisho",
                ["run", "start", specification.path, "--grant", grant.text, "--id", "killed", "--as", "rin"],
                reading: .error, environment: home)
            var words: [String] = []
            try Child.lines(of: errors) { line in
                words.append(line)
                return line != "stage \(stage.rawValue)"
            }
            kill(process, SIGKILL)
            #expect(Child.end(of: process) == -SIGKILL, "\(words)")
            let (resumed, _) = try Child.start(
                "sekisho", ["run", "resume", "killed", "--as", "rin"], reading: .output, environment: home)
            #expect(Child.end(of: resumed) == 0)
            try await enclave.open()
            let run = try RunID("killed")
            #expect(try await enclave.finish(run) == .closed(.released))
            try await check(run, enclave, against: whole, "killed in \(stage)")
        }
    }

    @Test("an access request that is interrupted between decision and grant is granted once")
    func request() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let request = try await enclave.gateway.fileRequest(Clinic.form, by: enclave.researcher)
            _ = try await enclave.gateway.advance(request)
            for person in [enclave.reviewer, enclave.custodian] {
                try await enclave.gateway.review(request, .approve, comment: "", by: person)
            }
            var lives = 0
            while true {
                let keys = try await enclave.records(.request(request)).map(\.key)
                if keys.contains("granted") { break }
                enclave.drop()
                lives += 1
                try #require(lives < 20, "no progress")
                await #expect(processExitsWith: .signal(SIGKILL)) {
                    [
                        home = enclave.home.path as String, key = enclave.key.path as String,
                        readings = lives as Int
                    ] in
                    let clock = TestClock()
                    let gateway = try await Enclave.open(
                        URL(fileURLWithPath: home, isDirectory: true), URL(fileURLWithPath: key), clock)
                    clock.killProcess(afterReadings: readings)
                    _ = try await gateway.advance(RequestID("request-1"))
                    kill(getpid(), SIGKILL)
                }
                try await enclave.open()
            }
            #expect(
                try await enclave.sequence(.request(request)) == [
                    "request.filed done", "access.decided done", "request.reviewed done", "request.reviewed done",
                    "access.decided done", "grant.issued done",
                ])
            #expect(try await enclave.gateway.grants(PageRequest(), by: enclave.auditor).items.count == 1)
        }
    }
}
