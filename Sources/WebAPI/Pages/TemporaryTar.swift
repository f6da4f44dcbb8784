package import Foundation
import Gateway
package import Hummingbird
import NIOCore

// MARK: - Archives

extension ResponseBody {
    /// One archive of files that are in memory.
    package static func tar(of files: [Artefact]) -> ResponseBody {
        var buffer = ByteBuffer()
        for file in files {
            guard let header = Tar.header(name: file.name, byteCount: file.bytes.count) else { continue }
            buffer.writeBytes(header)
            buffer.writeBytes(file.bytes)
            buffer.writeBytes(Tar.padding(after: file.bytes.count))
        }
        buffer.writeBytes(Tar.end)
        return ResponseBody(byteBuffer: buffer)
    }

    /// One archive of a folder's files, read as they are sent. The folder is removed however the sending ends.
    package static func tar(ofAndThenRemoving folder: URL) -> ResponseBody {
        let folder = TemporaryFolder(folder)
        return ResponseBody { writer in
            for name in try folder.fileNames {
                let handle = try FileHandle(forReadingFrom: folder.url.appendingPathComponent(name))
                defer { try? handle.close() }
                let byteCount = Int(try handle.seekToEnd())
                try handle.seek(toOffset: 0)
                guard let header = Tar.header(name: name, byteCount: byteCount) else {
                    throw TarError(reason: "a name")
                }
                try await writer.write(ByteBuffer(bytes: header))
                var left = byteCount
                while left > 0 {
                    guard let chunk = try handle.read(upToCount: min(left, 256 << 10)), !chunk.isEmpty else {
                        throw TarError(reason: "a file shrank")
                    }
                    left -= chunk.count
                    try await writer.write(ByteBuffer(bytes: chunk))
                }
                try await writer.write(ByteBuffer(bytes: Tar.padding(after: byteCount)))
            }
            try await writer.write(ByteBuffer(bytes: Tar.end))
            try await writer.finish(nil)
        }
    }
}

/// A folder that goes when nobody needs it any more, also where its answer was never sent.
private final class TemporaryFolder: Sendable {
    let url: URL

    init(_ url: URL) { self.url = url }

    deinit { try? FileManager.default.removeItem(at: url) }

    /// Paths of the plain files in it, sorted.
    var fileNames: [String] {
        get throws {
            try FileManager.default.subpathsOfDirectory(atPath: url.path).filter { name in
                var isFolder: ObjCBool = false
                return FileManager.default.fileExists(
                    atPath: url.appendingPathComponent(name).path, isDirectory: &isFolder) && !isFolder.boolValue
            }.sorted()
        }
    }
}

