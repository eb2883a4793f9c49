#include "qemu.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *const names[MAX_FILES] = {"state.qcow2", "data.raw"};

/* ---- the work folder ---------------------------------------------------------------------- */

static char folder[300];
static pid_t owner;

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static void remove_folder(void)
{
    if (owner == getpid())
        nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

const char *work_folder(void)
{
    if (owner == getpid())
        return folder;
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/crash-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(folder)) {
        perror(folder);
        exit(1);
    }
    owner = getpid();
    atexit(remove_folder);
    return folder;
}

static char *work_path(const char *name)
{
    char *path;
    if (asprintf(&path, "%s/%s", work_folder(), name) < 0)
        path = NULL;
    return must(path);
}

bool read_work_file(struct disk *d, const char *name)
{
    char *path = work_path(name);
    FILE *in = fopen(path, "rb");
    free(path);
    if (!in)
        return false;
    uint8_t buf[1 << 16];
    size_t n;
    disk_resize(d, 0);
    while ((n = fread(buf, 1, sizeof buf, in)) > 0) {
        size_t at = d->size;
        disk_resize(d, at + n);
        memcpy(d->data + at, buf, n);
    }
    bool good = !ferror(in);
    fclose(in);
    return good;
}

void write_work_file(const struct disk *d, const char *name)
{
    char *path = work_path(name);
    FILE *out = fopen(path, "wb");
    bool good = out && fwrite(d->data, 1, d->size, out) == d->size;
    if (!good || fclose(out) != 0) {
        perror(path);
        exit(1);
    }
    free(path);
}

/* preload.so lies beside this program. */
static void set_environment(void)
{
    char path[4096 + sizeof "/preload.so"];
    ssize_t n = readlink("/proc/self/exe", path, 4096);
    char *slash = n > 0 && n < 4096 ? memrchr(path, '/', (size_t)n) : NULL;
    if (!slash) {
        perror("crash: /proc/self/exe");
        exit(1);
    }
    strcpy(slash, "/preload.so");
    setenv("PRELOAD", path, 1);
    setenv("QEMU_IMG", "qemu-img", 0);
    setenv("QEMU_IO", "qemu-io", 0);
    setenv("ASAN_OPTIONS", "", 0);
}

bool run_script(const char *script)
{
    set_environment();
    fflush(NULL);
    const char *where = work_folder();
    pid_t child = fork();
    if (child == 0) {
        if (chdir(where) == 0)
            execl("/bin/sh", "sh", "-ec", script, (char *)NULL);
        _exit(127);
    }
    int status;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return false;
    return status == 0;
}

/* ---- checks ------------------------------------------------------------------------------- */

struct checker {
    pid_t pid;
    FILE *in, *out; /* its standard input and output */
    unsigned files;
    int memory[MAX_FILES];
    struct disk last[MAX_FILES]; /* what they hold */
};

static void link_memory(struct checker *c, unsigned i)
{
    char target[64], *path = work_path(names[i]);
    c->memory[i] = memfd_create(names[i], MFD_CLOEXEC);
    snprintf(target, sizeof target, "/proc/%d/fd/%d", (int)getpid(), c->memory[i]);
    unlink(path);
    if (c->memory[i] < 0 || symlink(target, path) < 0) {
        perror(path);
        exit(1);
    }
    free(path);
}

static void become_server(int input, int output, const char *where)
{
    dup2(input, 0);
    dup2(output, 1);
    setenv("LD_PRELOAD", getenv("PRELOAD"), 1);
    if (chdir(where) == 0)
        execlp(getenv("QEMU_IMG"), "qemu-img", "crash-serve", (char *)NULL);
    _exit(127);
}

static bool start_server(struct checker *c)
{
    int to[2], from[2];
    set_environment();
    fflush(NULL);
    signal(SIGPIPE, SIG_IGN);
    if (pipe2(to, O_CLOEXEC) < 0 || pipe2(from, O_CLOEXEC) < 0)
        return false;
    const char *where = work_folder();
    c->pid = fork();
    if (c->pid == 0)
        become_server(to[0], from[1], where);
    close(to[0]);
    close(from[1]);
    c->in = fdopen(to[1], "w");
    c->out = fdopen(from[0], "r");
    return c->pid > 0 && c->in && c->out;
}

struct checker *checker_start(unsigned files, const struct disk *base)
{
    struct checker *c = must(calloc(1, sizeof *c));
    c->files = files;
    if (base && base->size)
        write_work_file(base, "base.raw");
    for (unsigned i = 0; i < files; i++)
        link_memory(c, i);
    if (!start_server(c)) {
        fprintf(stderr, "crash: cannot start qemu-img: %s\n", strerror(errno));
        exit(1);
    }
    return c;
}

void checker_stop(struct checker *c)
{
    if (!c)
        return;
    fclose(c->in);
    fclose(c->out);
    waitpid(c->pid, NULL, 0);
    for (unsigned i = 0; i < c->files; i++) {
        char *path = work_path(names[i]);
        unlink(path);
        free(path);
        close(c->memory[i]);
        disk_free(&c->last[i]);
    }
    free(c);
}

static void put(int fd, const struct disk *d, size_t from, size_t to)
{
    while (from < to) {
        ssize_t n = pwrite(fd, d->data + from, to - from, (off_t)from);
        if (n <= 0) {
            perror("crash: memory for the image");
            exit(1);
        }
        from += (size_t)n;
    }
}

/* Most states differ little from the one before. */
static void update(int fd, struct disk *last, const struct disk *d)
{
    enum { PIECE = 4096 };
    for (size_t at = 0; at < d->size; at += PIECE) {
        size_t n = d->size - at < PIECE ? d->size - at : PIECE;
        if (at + n > last->size || memcmp(last->data + at, d->data + at, n) != 0)
            put(fd, d, at, at + n);
    }
    if (ftruncate(fd, (off_t)d->size) < 0)
        perror("crash: memory for the image");
    disk_set(last, d->data, d->size);
}

void checker_begin(struct checker *c, const struct disk *disks)
{
    for (unsigned i = 0; i < c->files; i++)
        update(c->memory[i], &c->last[i], &disks[i]);
    fprintf(c->in, "%s\n", names[0]);
    fflush(c->in);
}

/* A number of the JSON text; what is not named is 0. */
static uint64_t number(const char *line, const char *name)
{
    const char *at = strstr(line, name);
    return at ? strtoull(at + strlen(name), NULL, 10) : 0;
}

int checker_end(struct checker *c, struct damage *d, struct img_error *err)
{
    char line[4096];
    bool answered = false;
    *d = (struct damage){0};
    while (fgets(line, sizeof line, c->out)) {
        d->corruptions += number(line, "\"corruptions\": ") + number(line, "\"check-errors\": ");
        d->leaks += number(line, "\"leaks\": ");
        answered |= strstr(line, "\"check-errors\"") != NULL;
        if (strncmp(line, "#exit ", 6) != 0)
            continue;
        int status = atoi(line + 6);
        if (!answered || (status != 0 && status != 2 && status != 3))
            return img_fail(err, EIO, "qemu-img cannot check it (exit status %d)", status);
        return 0;
    }
    fputs("crash: qemu-img ended; can it be loaded with tests/crash/preload.so?\n", stderr);
    exit(1);
}
