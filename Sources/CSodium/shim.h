#include <sodium.h>
#include <sys/prctl.h>

/// `prctl` is variadic, which Swift cannot call. 0 on success.
static inline int sekisho_forbid_core_dumps(void) { return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); }

/// No program this process starts can gain rights it does not have. 0 on success.
static inline int sekisho_forbid_new_privileges(void) { return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); }
