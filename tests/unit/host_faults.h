/*
 * Calls to the host that fail when a test wants them to. For one source file of a test program, and
 * put in place by the linker, as alloc_faults.h is.
 */
#ifndef HOST_FAULTS_H
#define HOST_FAULTS_H

#include <errno.h>
#include <stdbool.h>
#include <sys/types.h>

static long io_countdown; /* calls until one fails; 0: none will */

static bool io_fails(void)
{
    return io_countdown && --io_countdown == 0;
}

#define WRAP(type, name, parameters, arguments)                                                    \
    type __real_##name parameters;                                                                 \
    type __wrap_##name parameters;                                                                 \
    type __wrap_##name parameters                                                                  \
    {                                                                                              \
        if (io_fails()) {                                                                          \
            errno = EIO;                                                                           \
            return -1;                                                                             \
        }                                                                                          \
        return __real_##name arguments;                                                            \
    }

WRAP(ssize_t, pread64, (int fd, void *buf, size_t n, off_t at), (fd, buf, n, at))
WRAP(ssize_t, pwrite64, (int fd, const void *buf, size_t n, off_t at), (fd, buf, n, at))
WRAP(int, ftruncate64, (int fd, off_t size), (fd, size))
WRAP(int, fsync, (int fd), (fd))
WRAP(int, linkat, (int from, const char *old, int to, const char *new, int flags),
     (from, old, to, new, flags))
WRAP(int, renameat2, (int from, const char *old, int to, const char *new, unsigned flags),
     (from, old, to, new, flags))

#endif
