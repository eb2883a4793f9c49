/*
 * Loaded into QEMU's programs with LD_PRELOAD. Two uses, told apart by the environment:
 *
 *   CRASH_RECORD=FILE CRASH_LOG=LOG  every call that changes FILE is appended to LOG, with its
 * data, as struct logged below, in the order in which the calls were made qemu-img crash-serve  the
 * program answers many checks: for each line on its standard input, the name of an image, it forks
 * a child that is `qemu-img check --output=json -f qcow2 NAME`, and then writes a line "#exit
 * STATUS". Starting a program costs several times what a check does.
 *
 * This file is compiled alone, without sanitizers, since it lives inside programs that have none.
 */
/* Both names of each call are wanted here, pwrite and pwrite64; off_t is 64 bits wide anyway. */
#undef _FILE_OFFSET_BITS

#include "crash_log.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- recording ---------------------------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -1;
static const char *path;     /* of the file */
static const char *beside;   /* of another that may come to be; or NULL */
static struct stat recorded; /* the file when the program started; st_ino 0: there was none */
static struct stat log_itself;
static ino_t new_file;

__attribute__((constructor)) static void begin(void)
{
    const char *log = getenv("CRASH_LOG");
    path = getenv("CRASH_RECORD");
    beside = getenv("CRASH_BESIDE");
    if (!path || !log)
        return;
    (void)stat(path, &recorded);
    log_fd = open(log, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (log_fd >= 0)
        (void)fstat(log_fd, &log_itself);
}

/* Which file FD is, or -1. */
static int wanted(int fd)
{
    struct stat st;
    if (log_fd < 0 || fstat(fd, &st) < 0 || st.st_dev != log_itself.st_dev ||
        st.st_ino == log_itself.st_ino)
        return -1;
    if (S_ISDIR(st.st_mode))
        return LOGGED_FOLDER;
    if (!S_ISREG(st.st_mode))
        return -1;
    if (st.st_ino == recorded.st_ino)
        return LOGGED_FILE;
    new_file = st.st_ino;
    return LOGGED_NEW_FILE;
}

/* A log that cannot be written must not look like a short one. */
static void append(int file, uint32_t kind, uint64_t offset, uint64_t length, const void *data)
{
    struct logged l = {.kind = kind, .file = (uint32_t)file, .offset = offset, .length = length};
    struct iovec v[2] = {{&l, sizeof l}, {(void *)data, data ? length : 0}};
    if (writev(log_fd, v, 2) != (ssize_t)(sizeof l + v[1].iov_len)) {
        static const char text[] = "crash preload: cannot write the log\n";
        (void)!write(2, text, sizeof text - 1);
        _exit(99);
    }
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Makes the call and logs it, as one step. GOOD: how to see that it did something. */
#define RECORDED(file, call, good, kind, offset, length, data)                                     \
    ({                                                                                             \
        pthread_mutex_lock(&lock);                                                                 \
        __typeof__(call) ret_ = (call);                                                            \
        if (good)                                                                                  \
            append(file, kind, (uint64_t)(offset), (uint64_t)(length), data);                      \
        pthread_mutex_unlock(&lock);                                                               \
        ret_;                                                                                      \
    })

#define PWRITE(name)                                                                               \
    ssize_t name(int fd, const void *buf, size_t n, off_t offset)                                  \
    {                                                                                              \
        int file = wanted(fd);                                                                     \
        if (file < 0)                                                                              \
            return REAL(name)(fd, buf, n, offset);                                                 \
        return RECORDED(file, REAL(name)(fd, buf, n, offset), ret_ > 0, LOGGED_WRITE, offset,      \
                        ret_, buf);                                                                \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

static void append_vector(int file, const struct iovec *v, int count, off_t offset, ssize_t done)
{
    for (int i = 0; i < count && done > 0; i++) {
        size_t n = v[i].iov_len < (size_t)done ? v[i].iov_len : (size_t)done;
        done -= (ssize_t)n;
        if (n)
            append(file, LOGGED_WRITE, (uint64_t)offset, n, v[i].iov_base);
        offset += (off_t)n;
    }
}

#define PWRITEV(name)                                                                              \
    ssize_t name(int fd, const struct iovec *v, int count, off_t offset)                           \
    {                                                                                              \
        int file = wanted(fd);                                                                     \
        if (file < 0)                                                                              \
            return REAL(name)(fd, v, count, offset);                                               \
        pthread_mutex_lock(&lock);                                                                 \
        ssize_t done = REAL(name)(fd, v, count, offset);                                           \
        append_vector(file, v, count, offset, done);                                               \
        pthread_mutex_unlock(&lock);                                                               \
        return done;                                                                               \
    }
PWRITEV(pwritev)
PWRITEV(pwritev64)

#define TRUNCATE(name)                                                                             \
    int name(int fd, off_t size)                                                                   \
    {                                                                                              \
        int file = wanted(fd);                                                                     \
        if (file < 0)                                                                              \
            return REAL(name)(fd, size);                                                           \
        return RECORDED(file, REAL(name)(fd, size), ret_ == 0, LOGGED_TRUNCATE, size, 0, NULL);    \
    }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

/* A range made to read as zeroes; or only space for it, which may make the file longer. */
static uint32_t kind_of_fallocate(int mode)
{
    bool keep = mode & FALLOC_FL_KEEP_SIZE;
    if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
        return keep ? LOGGED_ZERO : LOGGED_ZERO_GROW;
    return keep ? LOGGED_NOTHING : LOGGED_GROW;
}

#define FALLOCATE(name)                                                                            \
    int name(int fd, int mode, off_t offset, off_t length)                                         \
    {                                                                                              \
        int file = wanted(fd);                                                                     \
        if (file < 0)                                                                              \
            return REAL(name)(fd, mode, offset, length);                                           \
        return RECORDED(file, REAL(name)(fd, mode, offset, length), ret_ == 0,                     \
                        kind_of_fallocate(mode), offset, length, NULL);                            \
    }
FALLOCATE(fallocate)
FALLOCATE(fallocate64)

#define SYNC(name)                                                                                 \
    int name(int fd)                                                                               \
    {                                                                                              \
        int file = wanted(fd);                                                                     \
        if (file < 0)                                                                              \
            return REAL(name)(fd);                                                                 \
        return RECORDED(file, REAL(name)(fd), ret_ == 0, LOGGED_FLUSH, 0, 0, NULL);                \
    }
SYNC(fdatasync)
SYNC(fsync)

static bool is_new_file(const char *name)
{
    struct stat st;
    return name && new_file && stat(name, &st) == 0 && st.st_ino == new_file;
}

/* After a call that gives names: does one of ours now mean the new file? */
static void see_name(void)
{
    if (log_fd >= 0 && is_new_file(path))
        append(LOGGED_FOLDER, LOGGED_NAME, 0, 0, NULL);
    else if (log_fd >= 0 && is_new_file(beside))
        append(LOGGED_FOLDER, LOGGED_APPEAR, 0, 0, NULL);
}

#define NAMING(call)                                                                               \
    ({                                                                                             \
        pthread_mutex_lock(&lock);                                                                 \
        int ret_ = (call);                                                                         \
        if (ret_ == 0)                                                                             \
            see_name();                                                                            \
        pthread_mutex_unlock(&lock);                                                               \
        ret_;                                                                                      \
    })

int linkat(int from, const char *old, int to, const char *new, int flags)
{
    return NAMING(REAL(linkat)(from, old, to, new, flags));
}

int rename(const char *old, const char *new)
{
    return NAMING(REAL(rename)(old, new));
}

int renameat2(int from, const char *old, int to, const char *new, unsigned flags)
{
    return NAMING(REAL(renameat2)(from, old, to, new, flags));
}

/* ---- serving ------------------------------------------------------------------------------ */

static int (*real_main)(int, char **, char **);

static int serve(char **argv, char **envp)
{
    char name[4096];
    while (fgets(name, sizeof name, stdin)) {
        name[strcspn(name, "\n")] = 0;
        pid_t child = fork();
        if (child == 0) {
            char *args[] = {argv[0], "check", "--output=json", "-f", "qcow2", name, NULL};
            int null = open("/dev/null", O_RDWR);
            dup2(null, 0);
            dup2(null, 2);
            exit(real_main(6, args, envp));
        }
        int status = 0;
        if (child < 0 || waitpid(child, &status, 0) < 0)
            return 1;
        printf("#exit %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
        fflush(stdout);
    }
    return 0;
}

static int chosen_main(int argc, char **argv, char **envp)
{
    if (argc == 2 && !strcmp(argv[1], "crash-serve"))
        return serve(argv, envp);
    return real_main(argc, argv, envp);
}

int __libc_start_main(int (*fn)(int, char **, char **), int argc, char **argv, void (*init)(void),
                      void (*fini)(void), void (*rtld_fini)(void), void *stack_end)
{
    int (*start)(int (*)(int, char **, char **), int, char **, void (*)(void), void (*)(void),
                 void (*)(void), void *);
    *(void **)&start = dlsym(RTLD_NEXT, "__libc_start_main");
    real_main = fn;
    return start(chosen_main, argc, argv, init, fini, rtld_fini, stack_end);
}
