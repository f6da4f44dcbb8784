package import Foundation

// POSIX.1-2001 ustar, as little of it as a list of plain files needs: what is sent as one body or sealed as one file,
// and unpacked by `tar x` or by `TarUnpacker`.

/// Writes plain files one after the other into an archive.
package enum Tar {
    package static let blockBytes = 512
    package static let mediaType = "application/x-tar"

    /// The header of one file; `nil` for a name that does not fit or that would leave the folder it is unpacked in.
    package static func header(name: String, byteCount: Int) -> [UInt8]? {
        guard isPlain(name), byteCount >= 0, byteCount < 1 << 33, let (prefix, rest) = split(name) else { return nil }
        var block = [UInt8](repeating: 0, count: blockBytes)
        func put(_ text: String, at offset: Int) {
            block.replaceSubrange(offset..<offset + text.utf8.count, with: text.utf8)
        }
        put(rest, at: 0)
        put("0000600", at: 100)
        put("0000000", at: 108)
        put("0000000", at: 116)
        put(octal(byteCount, digits: 11), at: 124)
        put("00000000000", at: 136)
        put("        ", at: 148)
        put("0", at: 156)
        put("ustar", at: 257)
        put("00", at: 263)
        put(prefix, at: 345)
        let sum = block.reduce(0) { $0 + Int($1) }
        put(octal(sum, digits: 6), at: 148)
        block[154] = 0
        return block
    }

    /// Name and size in a header as `tar` programs write it for a plain file; whose it is and when it was made do not
    /// matter here.
    fileprivate static func entry(_ block: [UInt8]) -> (name: String, byteCount: Int)? {
        func text(_ range: Range<Int>) -> String { String(decoding: block[range].prefix { $0 != 0 }, as: UTF8.self) }
        func number(_ range: Range<Int>) -> Int? { Int(text(range).filter { $0 != " " }, radix: 8) }
        let sum = block.enumerated().reduce(0) { $0 + ((148..<156).contains($1.offset) ? 32 : Int($1.element)) }
        guard number(148..<156) == sum, text(257..<262) == "ustar", [0, UInt8(ascii: "0")].contains(block[156]),
            let byteCount = number(124..<136), byteCount >= 0
        else { return nil }
        let prefix = text(345..<500)
        let name = prefix.isEmpty ? text(0..<100) : "\(prefix)/\(text(0..<100))"
        return isPlain(name) ? (name, byteCount) : nil
    }

    /// A name of more than 100 bytes is cut at a slash: up to 155 bytes of it stand in the prefix.
    private static func split(_ name: String) -> (prefix: String, rest: String)? {
        if name.utf8.count <= 100 { return ("", name) }
        for (at, character) in zip(name.indices, name) where character == "/" {
            let rest = name[name.index(after: at)...]
            if rest.utf8.count <= 100 {
                return name[..<at].utf8.count <= 155 ? (String(name[..<at]), String(rest)) : nil
            }
        }
        return nil
    }

    /// What follows a file's bytes, up to the next whole block.
    package static func padding(after byteCount: Int) -> [UInt8] {
        [UInt8](repeating: 0, count: (blockBytes - byteCount % blockBytes) % blockBytes)
    }

    package static let end = [UInt8](repeating: 0, count: 2 * blockBytes)

    /// A relative path of plain names: nothing absolute, nothing upwards, nothing hidden.
    private static func isPlain(_ name: String) -> Bool {
        let parts = name.split(separator: "/", omittingEmptySubsequences: false)
        return parts.count <= 12
            && parts.allSatisfy { part in
                !part.isEmpty && !part.hasPrefix(".")
                    && part.utf8.allSatisfy { byte in
                        switch byte {
                        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"),
                            UInt8(ascii: "-"), UInt8(ascii: ":"), UInt8(ascii: "+"):
                            true
                        default: false
                        }
                    }
            }
    }

    private static func octal(_ number: Int, digits: Int) -> String {
        let text = String(number, radix: 8)
        return String(repeating: "0", count: digits - text.count) + text
    }
}

/// Why a body is not an archive of plain files.
package struct TarError: Error, Equatable {
    package let reason: String

    package init(reason: String) { self.reason = reason }
}

/// Takes an archive of plain files apart as its bytes come.
package struct TarReader: ~Copyable {
    package enum Event {
        case begin(name: String, byteCount: Int)
        case content(ArraySlice<UInt8>)
        case end(name: String)
    }

    private enum State {
        case header
        case content(left: Int, padding: Int)
        case padding(Int)
        case ended
    }

    package static let filesMax = 2_000_000
    private var state = State.header
    private var block: [UInt8] = []
    private var zeroBlocks = 0
    private var names: Set<String> = []
    /// Names and sizes, in the order they came.
    package private(set) var files: [(name: String, bytes: Int)] = []

    package init() {}

    /// Tells `body` what the next bytes hold.
    package mutating func take(_ bytes: ArraySlice<UInt8>, _ body: (Event) throws -> Void) throws {
        var bytes = bytes
        while !bytes.isEmpty {
            switch state {
            case .ended:
                guard bytes.allSatisfy({ $0 == 0 }) else {
                    throw TarError(reason: "something follows the archive's end")
                }
                return
            case .header:
                let wanted = Tar.blockBytes - block.count
                block += bytes.prefix(wanted)
                bytes = bytes.dropFirst(wanted)
                if block.count == Tar.blockBytes { try readHeader(body) }
            case .padding(let left):
                let taken = min(left, bytes.count)
                bytes = bytes.dropFirst(taken)
                state = left == taken ? .header : .padding(left - taken)
            case .content(let left, let padding):
                let taken = min(left, bytes.count)
                try body(.content(bytes.prefix(taken)))
                bytes = bytes.dropFirst(taken)
                if left == taken {
                    try finishFile(padding, body)
                } else {
                    state = .content(left: left - taken, padding: padding)
                }
            }
        }
    }

    /// Throws where the archive broke off.
    package consuming func finish() throws -> [(name: String, bytes: Int)] {
        guard case .ended = state else { throw TarError(reason: "the archive broke off") }
        return files
    }

    private mutating func finishFile(_ padding: Int, _ body: (Event) throws -> Void) throws {
        state = padding == 0 ? .header : .padding(padding)
        try body(.end(name: files[files.count - 1].name))
    }

    private mutating func readHeader(_ body: (Event) throws -> Void) throws {
        defer { block.removeAll(keepingCapacity: true) }
        if block.allSatisfy({ $0 == 0 }) {
            zeroBlocks += 1
            if zeroBlocks == 2 { state = .ended }
            return
        }
        guard zeroBlocks == 0 else { throw TarError(reason: "a file follows the archive's end") }
        guard let (name, byteCount) = Tar.entry(block) else {
            throw TarError(reason: "an entry is not a plain file with a plain name")
        }
        guard files.count < Self.filesMax, names.insert(name).inserted else {
            throw TarError(reason: "a name occurs twice, or there are too many files")
        }
        files.append((name, byteCount))
        try body(.begin(name: name, byteCount: byteCount))
        let padding = Tar.padding(after: byteCount).count
        if byteCount == 0 {
            try finishFile(padding, body)
        } else {
            state = .content(left: byteCount, padding: padding)
        }
    }
}

/// Unpacks an archive: plain files only, each into `folder` and nowhere else.
package struct TarUnpacker: ~Copyable {
    private let folder: URL
    private let top: String
    private var reader = TarReader()
    private var file: FileHandle?

    /// - Parameters:
    ///   - folder: made by the first file.
    ///   - top: the folder inside the archive that every file lies in, if any; it is left out of their names.
    package init(into folder: URL, from top: String? = nil) {
        self.folder = folder
        self.top = top.map { "\($0)/" } ?? ""
    }

    package mutating func take(_ bytes: ArraySlice<UInt8>) throws {
        var file = self.file
        defer { self.file = file }
        let (folder, top) = (folder, top)
        try reader.take(bytes) { event in
            switch event {
            case .begin(let name, _):
                guard name.hasPrefix(top) else { throw TarError(reason: "a file lies outside the archive's folder") }
                file = try Self.make(folder.appendingPathComponent(String(name.dropFirst(top.count))))
            case .content(let bytes):
                do { try file?.write(contentsOf: Data(bytes)) } catch {
                    throw TarError(reason: "a file cannot be written; see that the disk has space")
                }
            case .end:
                try? file?.close()
                file = nil
            }
        }
    }

    /// Throws where the archive broke off.
    package consuming func finish() throws -> [(name: String, bytes: Int)] { try reader.finish() }

    private static func make(_ place: URL) throws -> FileHandle {
        do {
            try FileManager.default.createDirectory(
                at: place.deletingLastPathComponent(), withIntermediateDirectories: true)
        } catch { throw TarError(reason: "the folder cannot be made") }
        let descriptor = open(place.path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard descriptor >= 0 else { throw TarError(reason: "a file is there already, or cannot be made") }
        return FileHandle(fileDescriptor: descriptor, closeOnDealloc: true)
    }
}
