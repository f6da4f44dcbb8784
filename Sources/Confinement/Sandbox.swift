internal import CConfinement
internal import Glibc

/// What a process gives up for good once it has opened all it needs: files, new sockets, other programs, executable
/// memory. The kernel holds it to that, whatever code comes to run in it.
///
/// Two walls: Landlock (landlock(7)) for files and ports, and a list of system calls (seccomp(2), through libseccomp)
/// for everything. A kernel may lack either; `available` says so, and whoever relies on the process asks for it.
package struct Sandbox: Equatable, Sendable {
    /// Files are out of reach but for the folder that was named.
    package let files: Bool
    /// Only the system calls of `CallWall` are answered.
    package let calls: Bool

    /// Nothing is given up: an agent that is part of another process.
    package static let none = Sandbox(files: false, calls: false)

    /// What this kernel can enforce.
    package static var available: Sandbox {
        Sandbox(files: FileWall.isAvailable, calls: CallWall.isAvailable)
    }

    /// Raises the walls that are available. After a failure the process may not go on.
    ///
    /// Called by the only thread there is, which may no longer gain rights: a wall around one of several threads would
    /// be none.
    ///
    /// - Parameter writable: the one folder in which files may still be read, written, made and removed.
    package func enforce(writable: String) throws(SandboxError) {
        guard try Self.threadCount() == 1 else {
            throw SandboxError(.threads, "the process can only be confined before it starts threads")
        }
        if files { try FileWall.raise(writable: writable) }
        if calls { try CallWall.raise() }
    }

    private static func threadCount() throws(SandboxError) -> Int {
        guard let threads = opendir("/proc/self/task") else {
            throw SandboxError(.threads, "the process's threads cannot be counted")
        }
        defer { closedir(threads) }
        var count = 0
        while let entry = readdir(threads) {
            if entry.pointee.d_name.0 != CChar(UInt8(ascii: ".")) { count += 1 }
        }
        return count
    }
}

/// Why a process is not confined.
package struct SandboxError: Error, Equatable, Sendable, CustomStringConvertible {
    package enum Code: String, Sendable { case threads, files, calls }
    package let code: Code
    package let publicDescription: String

    init(_ code: Code, _ publicDescription: String) {
        self.code = code
        self.publicDescription = publicDescription
    }

    package var description: String { "\(code.rawValue): \(publicDescription)" }
}
