import Foundation
import Gateway
import Sealing
import Vocabulary

/// Exports that were made on a page and wait to be fetched: sealed entries and proofs, in a folder of this process. The
/// newest few are kept; only whoever made one gets it, once.
actor Exports {
    struct Made: Sendable {
        let id: String
        let person: PersonID
        let folder: URL
        let summary: ExportSummary
        /// Of all its files.
        let bytes: Int
    }

    private static let keptMax = 4
    private var made: [Made] = []
    private let root = FileManager.default.temporaryDirectory.appendingPathComponent(
        "sekisho-exports-\(Hex.encode(RandomBytes.array(8)))", isDirectory: true)

    deinit { try? FileManager.default.removeItem(at: root) }

    /// - Parameter work: fills the folder, which is not there yet.
    /// - Returns: the export's id, which nobody can guess.
    func make(
        of person: PersonID, _ work: @Sendable (URL) async throws -> ExportSummary
    ) async throws -> String {
        let id = Hex.encode(RandomBytes.array(16))
        let folder = root.appendingPathComponent(id, isDirectory: true)
        try FileManager.default.createDirectory(
            at: folder, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
        do {
            let summary = try await work(folder)
            let bytes = try Self.byteCount(of: folder)
            made.append(Made(id: id, person: person, folder: folder, summary: summary, bytes: bytes))
        } catch {
            try? FileManager.default.removeItem(at: folder)
            throw error
        }
        while made.count > Self.keptMax { try? FileManager.default.removeItem(at: made.removeFirst().folder) }
        return id
    }

    func find(_ id: String, of person: PersonID) -> Made? { made.first { $0.id == id && $0.person == person } }

    /// Hands an export over; from here on its folder is the caller's to remove.
    func take(_ id: String, of person: PersonID) -> Made? {
        made.firstIndex { $0.id == id && $0.person == person }.map { made.remove(at: $0) }
    }

    private static func byteCount(of folder: URL) throws -> Int {
        let files = FileManager.default.enumerator(at: folder, includingPropertiesForKeys: [.fileSizeKey])
        var bytes = 0
        while let file = files?.nextObject() as? URL {
            bytes += try file.resourceValues(forKeys: [.fileSizeKey]).fileSize ?? 0
        }
        return bytes
    }
}
