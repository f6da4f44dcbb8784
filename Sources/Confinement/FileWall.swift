internal import CConfinement
internal import Glibc

/// Landlock: every way to reach a file, a TCP port, or a process outside is forbidden, but for one folder.
enum FileWall {
    static var isAvailable: Bool { sekisho_landlock_version() >= 1 }

    static func raise(writable: String) throws(SandboxError) {
        let version = sekisho_landlock_version()
        var handled = sekisho_landlock_handled(
            files: Rights.known(to: version), network: version >= 4 ? 0b11 : 0, scoped: version >= 6 ? 0b11 : 0)
        let byteCount = MemoryLayout<UInt64>.size * (version >= 6 ? 3 : version >= 4 ? 2 : 1)
        let rules = sekisho_landlock_ruleset(&handled, byteCount)
        guard rules >= 0 else { throw refused }
        defer { close(rules) }
        let folder = open(writable, sekisho_path_only | O_DIRECTORY | O_CLOEXEC)
        guard folder >= 0 else { throw SandboxError(.files, "the folder that stays open cannot be opened") }
        defer { close(folder) }
        guard sekisho_landlock_allow(rules, Rights.folder & handled.files, folder) == 0,
            sekisho_landlock_restrict(rules) == 0
        else { throw refused }
    }

    private static var refused: SandboxError { SandboxError(.files, "the kernel refused to close off files") }

    /// `LANDLOCK_ACCESS_FS_*` of <linux/landlock.h>.
    private enum Rights {
        private static let writeFile: UInt64 = 1 << 1
        private static let readFile: UInt64 = 1 << 2
        private static let readFolder: UInt64 = 1 << 3
        private static let removeFile: UInt64 = 1 << 5
        private static let makeFile: UInt64 = 1 << 8
        private static let truncate: UInt64 = 1 << 14

        /// What durable files need: no folders, links, devices or programs are made or run.
        static let folder = writeFile | readFile | readFolder | removeFile | makeFile | truncate

        /// Version 1 has 13 rights; 2 adds moving between folders, 3 truncating, 5 device controls.
        static func known(to version: Int32) -> UInt64 {
            let count: UInt64 = version >= 5 ? 16 : version >= 3 ? 15 : version == 2 ? 14 : 13
            return (1 << count) - 1
        }
    }
}
