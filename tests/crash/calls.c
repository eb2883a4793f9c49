/*
 * Loaded into imgtool with LD_PRELOAD: remembers every call that changes a file, of any number of
 * files, or makes one of them fail. The environment says which:
 *
 *   CALLS_LOG=FILE    lines are appended to it, in the order of the calls:
 *                       write INODE OFFSET HEX | truncate INODE SIZE | flush INODE |
 *                       zero INODE OFFSET LENGTH |
 *                       name INODE PATH | unname PATH | rename OLD <tab> NEW |
 *                       flush-folder PATH | forget INODE (what of it lies in memory)
 *   CALLS_FAIL=N      the N-th of these calls, and of those that read and open files, fails with
 *                     EIO; CALLS_ON=1: and all after it. The log then begins with "failed", and
 *                     shows what has changed all the same.
 *   CALLS_NO_LINKS=1  a file that has a name gets no second one
 *   CALLS_RUN=COMMAND the shell runs it before the file called CALLS_AT is first opened to be
 * written
 *
 * Compiled alone, without sanitizers, like preload.c.
 */
#undef _FILE_OFFSET_BITS

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static FILE *out;
static long to_fail, calls;
static bool on;
static const char *command, *at;

__attribute__((constructor)) static void begin(void)
{
    const char *log = getenv("CALLS_LOG"), *fail = getenv("CALLS_FAIL");
    if (log)
        out = fopen(log, "ae");
    to_fail = fail ? atol(fail) : 0;
    on = getenv("CALLS_ON") != NULL;
    command = getenv("CALLS_RUN");
    at = getenv("CALLS_AT");
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Shall this call fail? */
static bool fails(void)
{
    if (!to_fail)
        return false;
    calls++;
    if (calls != to_fail && !(on && calls > to_fail))
        return false;
    if (calls == to_fail && out)
        fputs("failed\n", out);
    errno = EIO;
    return true;
}

static struct stat status(int fd)
{
    struct stat st = {0};
    (void)fstat(fd, &st);
    return st;
}

/* Standard streams are not what this is about. */
static bool counts(int fd)
{
    struct stat st = status(fd);
    return fd > 2 && (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode) || S_ISDIR(st.st_mode)) &&
           (!out || fd != fileno(out));
}

static void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (out)
        vfprintf(out, fmt, ap);
    va_end(ap);
}

static void say_write(int fd, const unsigned char *p, ssize_t n, off_t offset)
{
    say("write %lu %lld ", (unsigned long)status(fd).st_ino, (long long)offset);
    for (ssize_t i = 0; i < n; i++)
        say("%02x", p[i]);
    say("\n");
}

#define PWRITE(name)                                                                               \
    ssize_t name(int fd, const void *buf, size_t n, off_t offset)                                  \
    {                                                                                              \
        if (counts(fd) && fails())                                                                 \
            return -1;                                                                             \
        ssize_t ret = REAL(name)(fd, buf, n, offset);                                              \
        if (ret > 0 && counts(fd))                                                                 \
            say_write(fd, buf, ret, offset);                                                       \
        return ret;                                                                                \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

#define PREAD(name)                                                                                \
    ssize_t name(int fd, void *buf, size_t n, off_t offset)                                        \
    {                                                                                              \
        return counts(fd) && fails() ? -1 : REAL(name)(fd, buf, n, offset);                        \
    }
PREAD(pread)
PREAD(pread64)

#define TRUNCATE(name)                                                                             \
    int name(int fd, off_t size)                                                                   \
    {                                                                                              \
        int ret = counts(fd) && fails() ? -1 : REAL(name)(fd, size);                               \
        if (ret == 0 && counts(fd))                                                                \
            say("truncate %lu %lld\n", (unsigned long)status(fd).st_ino, (long long)size);         \
        return ret;                                                                                \
    }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

/* Space that is only reserved changes nothing. */
#define FALLOCATE(name)                                                                            \
    int name(int fd, int mode, off_t offset, off_t length)                                         \
    {                                                                                              \
        int ret = counts(fd) && fails() ? -1 : REAL(name)(fd, mode, offset, length);               \
        if (ret == 0 && counts(fd) && (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)))      \
            say("zero %lu %lld %lld\n", (unsigned long)status(fd).st_ino, (long long)offset,       \
                (long long)length);                                                                \
        return ret;                                                                                \
    }
FALLOCATE(fallocate)
FALLOCATE(fallocate64)

static void say_flush(int fd)
{
    char proc[32], path[4096];
    struct stat st = status(fd);
    snprintf(proc, sizeof proc, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(proc, path, sizeof path - 1);
    if (S_ISDIR(st.st_mode) && n > 0)
        say("flush-folder %.*s\n", (int)n, path);
    else
        say("flush %lu\n", (unsigned long)st.st_ino);
}

#define SYNC(name)                                                                                 \
    int name(int fd)                                                                               \
    {                                                                                              \
        int ret = counts(fd) && fails() ? -1 : REAL(name)(fd);                                     \
        if (ret == 0 && counts(fd))                                                                \
            say_flush(fd);                                                                         \
        return ret;                                                                                \
    }
SYNC(fdatasync)
SYNC(fsync)

#define FADVISE(name)                                                                              \
    int name(int fd, off_t offset, off_t length, int advice)                                       \
    {                                                                                              \
        if (advice == POSIX_FADV_DONTNEED && counts(fd))                                           \
            say("forget %lu\n", (unsigned long)status(fd).st_ino);                                 \
        return REAL(name)(fd, offset, length, advice);                                             \
    }
FADVISE(posix_fadvise)
FADVISE(posix_fadvise64)

static int named(int ret, const char *path)
{
    struct stat st;
    if (ret == 0 && stat(path, &st) == 0)
        say("name %lu %s\n", (unsigned long)st.st_ino, path);
    return ret;
}

int linkat(int from, const char *old, int to, const char *new, int flags)
{
    if (getenv("CALLS_NO_LINKS") && strncmp(old, "/proc", 5)) {
        errno = EPERM;
        return -1;
    }
    return fails() ? -1 : named(REAL(linkat)(from, old, to, new, flags), new);
}

static int renamed(int ret, const char *old, const char *new)
{
    if (ret == 0)
        say("rename %s\t%s\n", old, new);
    return ret;
}

int rename(const char *old, const char *new)
{
    return fails() ? -1 : renamed(REAL(rename)(old, new), old, new);
}

int renameat2(int from, const char *old, int to, const char *new, unsigned flags)
{
    return fails() ? -1 : renamed(REAL(renameat2)(from, old, to, new, flags), old, new);
}

int unlink(const char *path)
{
    int ret = fails() ? -1 : REAL(unlink)(path);
    if (ret == 0)
        say("unname %s\n", path);
    return ret;
}

static void before_open(const char *path, int flags)
{
    const char *slash = strrchr(path, '/'), *now = command;
    if (!command || !(flags & O_RDWR) || strcmp(slash ? slash + 1 : path, at) != 0)
        return;
    command = NULL;
    unsetenv("LD_PRELOAD"); /* this program has it already */
    if (system(now) != 0)
        abort();
}

#define OPEN(name)                                                                                 \
    int name(const char *path, int flags, ...)                                                     \
    {                                                                                              \
        va_list ap;                                                                                \
        va_start(ap, flags);                                                                       \
        unsigned mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, unsigned) : 0;                  \
        va_end(ap);                                                                                \
        before_open(path, flags);                                                                  \
        if (strncmp(path, "/proc", 5) && strncmp(path, "/sys", 4) && fails())                      \
            return -1;                                                                             \
        int fd = REAL(name)(path, flags, mode);                                                    \
        if (fd >= 0 && (flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL) && counts(fd))           \
            named(0, path);                                                                        \
        return fd;                                                                                 \
    }
OPEN(open)
OPEN(open64)
