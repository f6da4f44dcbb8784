internal import CConfinement
internal import Glibc

/// The system calls that a serving process needs, and no others.
///
/// What is not on a list is answered with `EPERM`, so that a library's optional call does no harm. A call that only
/// foreign code would make ends the process at once: its memory goes back to the kernel, which zeroes it, and the
/// device's lease ends as after any other death.
enum CallWall {
    static var isAvailable: Bool { seccomp_api_get() >= 1 }

    static func raise() throws(SandboxError) {
        guard let filter = seccomp_init(sekisho_refuse_call) else { throw refused }
        defer { seccomp_release(filter) }
        guard seccomp_attr_set(filter, SCMP_FLTATR_CTL_LOG, 1) == 0 || seccomp_api_get() < 3 else { throw refused }
        for name in allowed { try add(sekisho_allow_call, name, to: filter) }
        for name in fatal { try add(sekisho_end_process, name, to: filter) }
        // A thread, not a process; the C library falls back to this from the newer call, whose flags are out of sight.
        try add(sekisho_unknown_call, "clone3", to: filter)
        try add(sekisho_allow_call, "clone", where: [bits(0, threadFlag, are: threadFlag)], to: filter)
        // No memory that can be written and then run, nor run at all.
        for name in ["mmap", "mprotect"] {
            try add(sekisho_allow_call, name, where: [bits(2, UInt64(PROT_EXEC), are: 0)], to: filter)
        }
        // Limits may be read, not set; a thread may get a name, nothing else.
        try add(sekisho_allow_call, "prlimit64", where: [equal(2, 0)], to: filter)
        try add(sekisho_allow_call, "prctl", where: [equal(0, UInt64(PR_SET_NAME))], to: filter)
        // The C library ends a process that it finds damaged with a signal to itself.
        try add(sekisho_allow_call, "tgkill", where: [equal(0, UInt64(getpid()))], to: filter)
        guard seccomp_load(filter) == 0 else { throw refused }
    }

    private static let allowed = [
        // Connections that are there or are accepted.
        "accept", "accept4", "recvfrom", "recvmsg", "sendto", "sendmsg", "shutdown", "getsockname", "getpeername",
        "getsockopt", "setsockopt", "poll", "ppoll",
        // Files: Landlock says which.
        "openat", "open", "read", "write", "pread64", "pwrite64", "readv", "writev", "close", "fstat", "newfstatat",
        "stat", "lstat", "lseek", "fsync", "fdatasync", "ftruncate", "rename", "renameat", "renameat2", "unlink",
        "unlinkat", "fcntl", "flock", "getdents64", "access", "faccessat", "faccessat2",
        // Memory.
        "munmap", "mremap", "madvise", "brk", "mlock", "mlock2", "munlock",
        // Threads, time, signals to itself.
        "futex", "set_robust_list", "rseq", "set_tid_address", "sched_yield", "sched_getaffinity", "gettid", "getpid",
        "clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday", "time", "rt_sigprocmask",
        "rt_sigaction", "rt_sigreturn", "rt_sigtimedwait", "sigaltstack", "restart_syscall", "membarrier",
        "getrandom", "uname", "sysinfo", "exit", "exit_group",
    ]

    private static let fatal = [
        "execve", "execveat", "fork", "vfork", "socket", "socketpair", "connect", "bind", "listen", "ptrace",
        "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_open", "pidfd_getfd", "kcmp", "bpf",
        "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "memfd_create",
        "unshare", "setns", "mount", "umount2", "pivot_root", "chroot", "kexec_load", "init_module", "finit_module",
        "delete_module", "add_key", "keyctl", "request_key", "setuid", "setgid", "setresuid", "setresgid", "capset",
    ]

    /// `CLONE_THREAD`.
    private static let threadFlag: UInt64 = 0x10000

    private static var refused: SandboxError {
        SandboxError(.calls, "the kernel refused to close off system calls")
    }

    private static func add(
        _ action: UInt32, _ name: String, where conditions: [scmp_arg_cmp] = [], to filter: scmp_filter_ctx
    ) throws(SandboxError) {
        let number = seccomp_syscall_resolve_name(name)
        // Older kernels' names are unknown to newer machines, and the other way round.
        guard number != __NR_SCMP_ERROR else { return }
        guard seccomp_rule_add_array(filter, action, number, UInt32(conditions.count), conditions) == 0 else {
            throw refused
        }
    }

    private static func equal(_ argument: UInt32, _ value: UInt64) -> scmp_arg_cmp {
        scmp_arg_cmp(arg: argument, op: SCMP_CMP_EQ, datum_a: value, datum_b: 0)
    }

    private static func bits(_ argument: UInt32, _ mask: UInt64, are value: UInt64) -> scmp_arg_cmp {
        scmp_arg_cmp(arg: argument, op: SCMP_CMP_MASKED_EQ, datum_a: mask, datum_b: value)
    }
}
