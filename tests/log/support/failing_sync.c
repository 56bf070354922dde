/* Loaded before the C library (LD_PRELOAD): makes one fsync or fdatasync of a process fail, when it is told to.
 *
 * FAILING_SYNC names a directory. Once a file `armed` is in it, the next sync renames that to `slow`, takes its time, so
 * that others queue up behind it, and succeeds; the sync after that removes `slow` and fails with EIO, without syncing.
 * Renaming and removing succeed once, so exactly one sync is slow and exactly one fails. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int fails(void) {
    const char *dir = getenv("FAILING_SYNC");
    char armed[4096], slow[4096];
    if (!dir || snprintf(armed, sizeof armed, "%s/armed", dir) >= (int)sizeof armed
        || snprintf(slow, sizeof slow, "%s/slow", dir) >= (int)sizeof slow)
        return 0;
    if (unlink(slow) == 0)
        return 1;
    if (rename(armed, slow) == 0)
        usleep(300 * 1000);
    return 0;
}

static int interposed(const char *name, int file) {
    int kept = errno;
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    if (fails()) {
        errno = EIO;
        return -1;
    }
    errno = kept;
    return real(file);
}

int fsync(int file) { return interposed("fsync", file); }
int fdatasync(int file) { return interposed("fdatasync", file); }
