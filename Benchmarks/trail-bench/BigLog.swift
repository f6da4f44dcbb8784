import AuditTrail
import DurableFiles
import Glibc
import Sealing
import TransparencyLog
import Vocabulary

/// A log of many records: what it takes to open, verify and export it.
struct BigLog {
    private static let runRecords = 10_000
    private let world: BenchTrail
    private let folder: String

    init(_ folder: String) throws {
        self.folder = folder
        world = try BenchTrail(folder)
    }

    /// Records in runs of ten thousand.
    func fill(_ records: Int) throws {
        let trail = try world.open()
        let (writers, first) = (64, trail.size)
        onThreads(writers) { writer in
            var number = writer * Self.runRecords
            do {
                while number < records {
                    let run = try RunID("run-\(first)-\(number)")
                    try trail.openEra(run: run)
                    for place in 0..<min(Self.runRecords, records - number) - 2 {
                        _ = try trail.record(BenchTrail.record(place), in: .run(run))
                    }
                    _ = try trail.append(trail.prepareClose(TrailRecord(.runClosed, .done), run: run))
                    number += writers * Self.runRecords
                }
            } catch { fatalError("\(error)") }
        }
        trail.close()
        print("{\"size\": \(trail.size), \"peak_kib\": \(peakKibibytes)}")
    }

    func recover() throws {
        let start = nanoseconds()
        let trail = try world.open()
        print(
            "{\"size\": \(trail.size), \"seconds\": \(seconds(start)), \"processor\": \(processorSeconds), \"peak_kib\": \(peakKibibytes)}"
        )
    }

    /// - Parameter opens: whether every entry is also opened with the auditor's key, its content read and its chain
    ///   checked.
    func verify(opens: Bool = false) throws {
        let start = nanoseconds()
        let report = try LogVerifier(
            disk: world.disk(readOnly: true), folder: "", identity: world.identity,
            auditor: opens ? world.auditor : nil
        ).verify()
        precondition(report.opened == (opens ? Int(report.entries) : 0), "the auditor reads everything or nothing")
        print(
            "{\"size\": \(report.head?.size ?? 0), \"seconds\": \(seconds(start)), \"processor\": \(processorSeconds), \"peak_kib\": \(peakKibibytes)}"
        )
    }

    func export(to target: String) throws {
        let start = nanoseconds()
        try ExportWriter(of: world.disk(readOnly: true), choice: .whole).write(
            into: FolderSink(FolderDisk(target)), scope: "whole", at: BenchClock().now())
        print("{\"seconds\": \(seconds(start)), \"processor\": \(processorSeconds), \"peak_kib\": \(peakKibibytes)}")
    }

    /// An export as an auditor without a key verifies it: every file against the manifest, then the log.
    func check(_ export: String) throws {
        let start = nanoseconds()
        let report = try AuditExport(FolderDisk(export, readOnly: true)).verify(
            trusting: world.identity, auditor: nil)
        print(
            "{\"size\": \(report.entries), \"seconds\": \(seconds(start)), \"processor\": \(processorSeconds), \"peak_kib\": \(peakKibibytes)}"
        )
    }

    /// The same export as one sealed file, every byte through `age`.
    func seal(to target: String) throws {
        let start = nanoseconds()
        let sink = try SealedSink(target, to: AgeRecipient(world.auditor.publicKey))
        try ExportWriter(of: world.disk(readOnly: true), choice: .whole).write(
            into: sink, scope: "whole", at: BenchClock().now())
        try sink.finish()
        print("{\"seconds\": \(seconds(start)), \"processor\": \(processorSeconds), \"peak_kib\": \(peakKibibytes)}")
    }

    private func seconds(_ start: UInt64) -> Double { Double(nanoseconds() - start) / 1e9 }
}

/// Files one after another in one sealed file, each after a line with its name and length.
private final class SealedSink: BagSink {
    private let descriptor: Int32
    private var writer: AgeWriter?

    init(_ path: String, to recipient: AgeRecipient) throws {
        let descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
        guard descriptor >= 0 else { throw DiskError.failed }
        self.descriptor = descriptor
        writer = try AgeWriter(to: [recipient]) { bytes in
            guard Glibc.write(descriptor, bytes, bytes.count) == bytes.count else { throw DiskError.failed }
        }
    }

    deinit { close(descriptor) }

    func put(_ path: String, _ bytes: [UInt8], durable: Bool) throws {
        try writer!.write(Array("\(path) \(bytes.count)\n".utf8))
        try writer!.write(bytes)
    }

    func finish() throws {
        try writer.take()!.finish()
        guard fdatasync(descriptor) == 0 else { throw DiskError.failed }
    }
}
