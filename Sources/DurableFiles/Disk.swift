/// The few things that whoever keeps durable files asks of a file system: one small protocol, so that a test can stand
/// in for the disk, tear what was not synced, and fail at each call.
///
/// Paths are relative to a folder and use `/`. Errors never show them.
package protocol Disk: Sendable {
    /// Refuses (`busy`) when another process holds this folder. Released when the disk is dropped.
    func lock() throws(DiskError)
    /// The names in a folder; none when it does not exist.
    func names(in folder: String) throws(DiskError) -> [String]
    /// How long a file is; `nil` when there is none.
    func byteCount(of path: String) throws(DiskError) -> Int?
    /// `nil` when there is no such file.
    func read(_ path: String) throws(DiskError) -> [UInt8]?
    func read(_ path: String, offset: Int, count: Int) throws(DiskError) -> [UInt8]
    /// Puts a whole file in place at once: the old content or the new, never a mixture. Makes missing folders.
    ///
    /// When `durable`, it also survives a crash of the machine from the moment this returns. When not, after a crash of
    /// the machine the file may be old, new, short or gone: only for what can be made again and is checked.
    func replace(_ path: String, with bytes: [UInt8], durable: Bool) throws(DiskError)
    /// A new durable file of zeros, all of its space taken.
    func preallocate(_ path: String, byteCount: Int) throws(DiskError)
    /// Writes inside an existing file; durable only after `sync`.
    func write(_ bytes: [UInt8], to path: String, offset: Int) throws(DiskError)
    /// Makes what was written to a file durable, and makes sure that it still is the file at that path (`gone`).
    func sync(_ path: String) throws(DiskError)
    /// Durably gives a file another name in the same folder.
    func rename(_ path: String, to newPath: String) throws(DiskError)
    /// Overwrites a file with zeros, then durably removes it. Nothing happens when it does not exist.
    func erase(_ path: String) throws(DiskError)
    func remove(_ path: String) throws(DiskError)
}

package enum DiskError: Error, Equatable, Sendable {
    case noSpace
    /// Another process holds the folder.
    case busy
    /// A file that is being written was removed or replaced by somebody else.
    case gone
    case failed
}
