import Confinement
import DeviceNode
import Foundation
import Glibc

/// Confines itself as a device node does, then tries one thing that foreign code in it would try.
///
/// `confinement-probe FOLDER ATTEMPT` prints what the kernel answered: `done`, or the error's name. A call that ends the
/// process prints nothing.
@main
enum Probe {
    static func main() throws {
        let (folder, attempt) = (CommandLine.arguments[1], CommandLine.arguments[2])
        let sandbox = Sandbox.available
        _ = try NodeProcess.harden()
        _ = call
        let listening = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        try NodeProcess.confine(sandbox, state: folder)
        guard let body = attempts(folder, listening)[attempt] else { fatalError("no attempt has this name") }
        errno = 0
        let answer = body() >= 0 ? "done" : name(of: errno)
        FileHandle.standardOutput.write(Data("\(answer)\n".utf8))
    }

    private static func attempts(_ folder: String, _ listening: Int32) -> [String: () -> Int] {
        let path = folder + "/file"
        return [
            "keep its own record": {
                let file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)
                guard file >= 0, write(file, "x", 1) == 1, fsync(file) == 0, close(file) == 0 else { return -1 }
                guard rename(path, path + ".kept") == 0 else { return -1 }
                return Int(open(path + ".kept", O_RDONLY))
            },
            "start a thread": {
                var thread = pthread_t()
                return pthread_create(&thread, nil, { _ in nil }, nil) == 0 && pthread_join(thread, nil) == 0 ? 0 : -1
            },
            "read a file outside": { Int(open("/etc/passwd", O_RDONLY)) },
            "read its own memory as a file": { Int(open("/proc/self/mem", O_RDWR)) },
            "list a folder outside": { Int(open("/", O_RDONLY | O_DIRECTORY)) },
            "write a file outside": { Int(open(folder + "/../outside", O_WRONLY | O_CREAT, 0o600)) },
            "make a folder": { Int(mkdir(folder + "/made", 0o700)) },
            "make a link": { Int(symlink("/etc/passwd", folder + "/link")) },
            "open a socket": { Int(socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)) },
            "open a datagram socket": { Int(socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)) },
            "open a local socket": { Int(socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)) },
            "connect the socket it has": {
                var address = sockaddr_in()
                address.sin_family = sa_family_t(AF_INET)
                address.sin_port = UInt16(9).bigEndian
                address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
                return withUnsafePointer(to: &address) { address in
                    address.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                        Int(connect(listening, $0, socklen_t(MemoryLayout<sockaddr_in>.size)))
                    }
                }
            },
            "run a program": {
                var arguments: [UnsafeMutablePointer<CChar>?] = [strdup("/bin/true"), nil]
                return Int(execv("/bin/true", &arguments))
            },
            "start a process": {
                // What the C library's `fork` calls: `clone` without a thread's flag.
                raw(56, Int(SIGCHLD))
            },
            "watch another process": { raw(101, 16, Int(getppid())) },
            "signal another process": { Int(kill(getppid(), 0)) },
            "make memory that can be run": {
                mmap(nil, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED
                    ? -1 : 0
            },
            "make its memory runnable": {
                let page = mmap(nil, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                return Int(mprotect(page, 4096, PROT_READ | PROT_EXEC))
            },
            "allow core dumps": {
                var limit = rlimit(rlim_cur: 1 << 20, rlim_max: 1 << 20)
                return Int(setrlimit(__rlimit_resource_t(RLIMIT_CORE.rawValue), &limit))
            },
            "become dumpable": { raw(157, 4, 1) },
            "become somebody else": { Int(setuid(1)) },
        ]
    }

    /// A system call by its number on x86-64, for those that the C library hides from Swift.
    private static func raw(_ number: Int, _ first: Int, _ second: Int = 0) -> Int { call(number, first, second, 0) }

    private static let call = unsafeBitCast(
        dlsym(nil, "syscall"), to: (@convention(c) (Int, Int, Int, Int) -> Int).self)

    private static func name(of code: Int32) -> String {
        switch code {
        case EPERM: "EPERM"
        case EACCES: "EACCES"
        case EXDEV: "EXDEV"
        default: String(cString: strerror(code))
        }
    }
}
