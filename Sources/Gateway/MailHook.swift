package import Foundation
import Glibc
import GRDB
import Vocabulary

/// Where messages go out: a program or a folder that the operator names. What goes out is the recipient's id, the
/// notice's code and its number, as one JSON object; whoever sends mail looks up the rest.
package enum MailHook: Sendable, Equatable {
    /// Run once a message, with the message on standard input and nothing else: no shell, no arguments.
    case program(URL)
    /// One file a message.
    case spool(URL)

    /// Refuses what could not be run or written to.
    package func check() throws {
        switch self {
        case .program(let file):
            guard file.path.hasPrefix("/"), FileManager.default.isExecutableFile(atPath: file.path) else {
                throw GatewayError(.usage, "the program for messages is not an executable file with an absolute path")
            }
        case .spool(let folder):
            var isFolder: ObjCBool = false
            guard folder.path.hasPrefix("/"),
                FileManager.default.fileExists(atPath: folder.path, isDirectory: &isFolder), isFolder.boolValue,
                FileManager.default.isWritableFile(atPath: folder.path)
            else { throw GatewayError(.usage, "the folder for messages is not one that can be written to") }
        }
    }

    /// Whether the message was taken.
    func send(_ message: JSON, number: Int64, secondsMax: Int) async -> Bool {
        switch self {
        case .spool(let folder):
            let file = folder.appendingPathComponent("notice-\(number).json")
            return (try? GatewayFile.write(message.canonical, to: file, role: "message")) != nil
        case .program(let program):
            let input = message.canonical
            return await withCheckedContinuation { continuation in
                DispatchQueue.global().async {
                    continuation.resume(returning: Self.run(program, input, secondsMax: secondsMax))
                }
            }
        }
    }

    private static func run(_ program: URL, _ input: [UInt8], secondsMax: Int) -> Bool {
        let pipe = Pipe()
        // Short enough to fit the pipe, so nothing waits for a program that does not read.
        guard input.count <= 4096, (try? pipe.fileHandleForWriting.write(contentsOf: Data(input))) != nil,
            (try? pipe.fileHandleForWriting.close()) != nil
        else { return false }
        let process = Process()
        process.executableURL = program
        process.arguments = []
        process.environment = ["PATH": "/usr/bin:/bin"]
        process.currentDirectoryURL = URL(fileURLWithPath: "/")
        process.standardInput = pipe.fileHandleForReading
        process.standardOutput = FileHandle.nullDevice
        process.standardError = FileHandle.nullDevice
        let ended = DispatchSemaphore(value: 0)
        process.terminationHandler = { _ in ended.signal() }
        guard (try? process.run()) != nil else { return false }
        if ended.wait(timeout: .now() + .seconds(secondsMax)) == .timedOut {
            kill(process.processIdentifier, SIGKILL)
            ended.wait()
            return false
        }
        return process.terminationReason == .exit && process.terminationStatus == 0
    }
}

/// What became of messages so far, for the operator.
package struct MailState: Sendable, Equatable {
    package let waiting: Int
    /// Given up after too many attempts, or never taken because too many waited.
    package let lost: Int
}

extension Gateway {
    private static let attemptsMax = 6
    private static let atOnce = 20

    package func setMailHook(_ hook: MailHook?) throws {
        try hook?.check()
        mailHook = hook
    }

    package func mailState() throws -> MailState {
        let waiting = try desk.database.read { try Int.fetchOne($0, sql: "SELECT COUNT(*) FROM mail") ?? 0 }
        return MailState(waiting: waiting, lost: Int(try desk.mark("mail-lost") ?? 0))
    }

    /// Sends what is due, each message a bounded number of times; what a program does or fails to do touches nothing
    /// else.
    ///
    /// - Parameter secondsMax: after which a program is ended.
    package func sendMail(secondsMax: Int = 30) async throws {
        guard let hook = mailHook, !isSendingMail else { return }
        isSendingMail = true
        defer { isSendingMail = false }
        try tellPeople()
        let now = clock.now()
        let due = try await desk.database.read { [desk] database in
            try Row.fetchAll(
                database, sql: "SELECT * FROM mail WHERE due <= ? ORDER BY due, id LIMIT ?",
                arguments: [now.milliseconds, Self.atOnce]
            ).map { row -> (id: Int64, attempts: Int, message: JSON) in
                let (id, attempts): (Int64, Int) = (row["id"], row["attempts"])
                return (id, attempts, try desk.open(row["sealed"], at: "mail/\(id)"))
            }
        }
        for (id, attempts, message) in due {
            let wasSent = await hook.send(message, number: id, secondsMax: secondsMax)
            let gaveUp = !wasSent && attempts + 1 >= Self.attemptsMax
            let next = clock.now().adding(seconds: 30 << Int64(attempts)).milliseconds
            try await desk.database.write { database in
                if wasSent || gaveUp {
                    try database.execute(sql: "DELETE FROM mail WHERE id = ?", arguments: [id])
                } else {
                    try database.execute(
                        sql: "UPDATE mail SET attempts = attempts + 1, due = ? WHERE id = ?", arguments: [next, id])
                }
                if gaveUp { try DeskFile.countLost(database) }
            }
        }
    }

    /// Tells people and sends messages until the task is cancelled.
    package func keepTelling() async {
        while !Task.isCancelled {
            try? tellPeople()
            try? await sendMail()
            try? await Task.sleep(for: .seconds(2))
        }
    }
}

extension DeskFile {
    private static let mailMax = 10_000

    /// Queues a message in the transaction of its notice. Where too many wait already, it is counted as lost: the notice
    /// itself stays.
    func queue(
        _ code: Notice.Code, to person: PersonID, notice: Int64, now: Timestamp, _ database: Database
    ) throws {
        guard try Int.fetchOne(database, sql: "SELECT COUNT(*) FROM mail") ?? 0 < Self.mailMax else {
            return try Self.countLost(database)
        }
        let message: JSON = [
            "notice": .integer(notice), "recipient": .string(person.text), "template": .string(code.rawValue),
        ]
        try database.execute(
            sql: "INSERT INTO mail (id, attempts, due, sealed) VALUES (?, 0, ?, ?)",
            arguments: [notice, now.milliseconds, seal(message, at: "mail/\(notice)")])
    }

    static func countLost(_ database: Database) throws {
        let lost = try Int64.fetchOne(database, sql: "SELECT value FROM mark WHERE name = 'mail-lost'") ?? 0
        try set("mail-lost", to: lost + 1, database)
    }
}
