#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/// Macros that Swift cannot see.
static const uint32_t sekisho_allow_call = SCMP_ACT_ALLOW;
static const uint32_t sekisho_end_process = SCMP_ACT_KILL_PROCESS;
static const uint32_t sekisho_refuse_call = SCMP_ACT_ERRNO(EPERM);
/// What a kernel without the call answers, so that the C library falls back to an older one.
static const uint32_t sekisho_unknown_call = SCMP_ACT_ERRNO(ENOSYS);
/// `O_PATH`, which <fcntl.h> only shows to programs that ask for everything of GNU's.
static const int sekisho_path_only = 010000000;

// Landlock (landlock(7)). The C library has no functions for it, and Debian 12's headers know only its second version.
#define SEKISHO_LANDLOCK_CREATE_RULESET 444
#define SEKISHO_LANDLOCK_ADD_RULE 445
#define SEKISHO_LANDLOCK_RESTRICT_SELF 446

/// `struct landlock_ruleset_attr` of version 6: what is forbidden unless a rule allows it.
struct sekisho_landlock_handled {
    uint64_t files, network, scoped;
};

/// `struct landlock_path_beneath_attr`.
struct sekisho_landlock_path {
    uint64_t allowed;
    int32_t parent;
} __attribute__((packed));

/// The kernel's version of Landlock; negative where it has none.
static inline int sekisho_landlock_version(void) {
    return (int)syscall(SEKISHO_LANDLOCK_CREATE_RULESET, NULL, 0, 1u);
}

/// A descriptor, or negative. `byteCount` is as much of the structure as the kernel's version knows.
static inline int sekisho_landlock_ruleset(const struct sekisho_landlock_handled *handled, size_t byteCount) {
    return (int)syscall(SEKISHO_LANDLOCK_CREATE_RULESET, handled, byteCount, 0u);
}

/// Allows `allowed` below the open folder `parent`. 0 on success.
static inline int sekisho_landlock_allow(int ruleset, uint64_t allowed, int parent) {
    struct sekisho_landlock_path rule = {allowed, parent};
    return (int)syscall(SEKISHO_LANDLOCK_ADD_RULE, ruleset, 1, &rule, 0u);
}

/// Binds the calling thread and those it starts from now on. 0 on success.
static inline int sekisho_landlock_restrict(int ruleset) {
    return (int)syscall(SEKISHO_LANDLOCK_RESTRICT_SELF, ruleset, 0u);
}
