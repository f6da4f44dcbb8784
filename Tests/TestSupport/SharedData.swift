package import Foundation

/// Published vectors and real data sets that are not part of this repository.
///
/// `scripts/test` sets `SEKISHO_SHARED` where they exist. Tests that need them are enabled only then and are counted
/// as skipped elsewhere.
package enum SharedData {
    package static let root: URL? = ProcessInfo.processInfo.environment["SEKISHO_SHARED"].map {
        URL(fileURLWithPath: $0, isDirectory: true)
    }

    package static var isPresent: Bool { root != nil }

    package static func url(_ path: String) -> URL { root!.appendingPathComponent(path) }
}

/// A new empty folder that is removed when `body` ends.
package func withTemporaryFolder<Value>(_ body: (URL) throws -> Value) throws -> Value {
    let folder = try makeTemporaryFolder()
    defer { try? FileManager.default.removeItem(at: folder) }
    return try body(folder)
}

package func withTemporaryFolder<Value>(
    isolation: isolated (any Actor)? = #isolation, _ body: (URL) async throws -> Value
) async throws -> Value {
    let folder = try makeTemporaryFolder()
    defer { try? FileManager.default.removeItem(at: folder) }
    return try await body(folder)
}

private func makeTemporaryFolder() throws -> URL {
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent("sekisho-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    return folder
}
