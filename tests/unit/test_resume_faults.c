/*
 * convert --resume on a disk that loses what was not flushed: the program ends at its n-th call,
 * for every n, and of the writes since the last flush of a file any may be missing. The next run
 * ends in the bytes of an undisturbed one, whether it is itself interrupted on the way or not.
 */
#include <imgtool.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { DISK = 2500 << 10, DIED = 9 };

/* ---- a disk that forgets ------------------------------------------------------------------- */

struct lost {
    int fd;
    ino_t inode;
    off_t at, size; /* of the file before */
    size_t length;
    uint8_t *old;
};

static long countdown; /* 0: nothing ends */
static uint32_t dice;
static struct lost *writes;
static size_t write_count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

ssize_t __real_pwrite64(int fd, const void *buf, size_t n, off_t at);
ssize_t __wrap_pwrite64(int fd, const void *buf, size_t n, off_t at);
int __real_fsync(int fd);
int __wrap_fsync(int fd);
int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);
int __real_ftruncate64(int fd, off_t size);
int __wrap_ftruncate64(int fd, off_t size);
int __real_renameat2(int from, const char *a, int to, const char *b, unsigned flags);
int __wrap_renameat2(int from, const char *a, int to, const char *b, unsigned flags);
int __real_unlink(const char *name);
int __wrap_unlink(const char *name);
int __real_clock_gettime(clockid_t clock, struct timespec *t);
int __wrap_clock_gettime(clockid_t clock, struct timespec *t);

static unsigned roll(unsigned sides)
{
    dice = dice * 1103515245 + 12345;
    return (dice >> 16) % sides;
}

/* Latest first, some of the writes were never made. */
static void die(void)
{
    for (size_t i = write_count; i-- > 0;) {
        struct lost *w = &writes[i];
        struct stat st;
        if (fstat(w->fd, &st) < 0 || st.st_ino != w->inode || roll(2))
            continue;
        if (__real_pwrite64(w->fd, w->old, w->length, w->at) < 0)
            abort();
        if (i + 1 == write_count && w->size < st.st_size && __real_ftruncate64(w->fd, w->size) < 0)
            abort();
    }
    _exit(DIED);
}

static void step(void)
{
    if (countdown && --countdown == 0)
        die();
}

ssize_t __wrap_pwrite64(int fd, const void *buf, size_t n, off_t at)
{
    struct stat st;
    pthread_mutex_lock(&lock);
    if (countdown && fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
        writes = realloc(writes, (write_count + 1) * sizeof *writes);
        struct lost w = {fd, st.st_ino, at, st.st_size, n, calloc(1, n)};
        if (!writes || !w.old || pread(fd, w.old, n, at) < 0)
            abort();
        writes[write_count++] = w;
        if (countdown == 1 && n > 1) /* the last one is torn */
            (void)!__real_pwrite64(fd, buf, roll((unsigned)n), at);
    }
    step();
    pthread_mutex_unlock(&lock);
    return __real_pwrite64(fd, buf, n, at);
}

static void keep(int fd)
{
    struct stat st;
    pthread_mutex_lock(&lock);
    step();
    if (countdown && fstat(fd, &st) == 0)
        for (size_t i = 0; i < write_count; i++)
            if (writes[i].inode == st.st_ino) {
                free(writes[i].old);
                writes[i--] = writes[--write_count];
            }
    pthread_mutex_unlock(&lock);
}

int __wrap_fsync(int fd)
{
    keep(fd);
    return __real_fsync(fd);
}

int __wrap_fdatasync(int fd)
{
    keep(fd);
    return __real_fdatasync(fd);
}

#define STEP(type, name, parameters, arguments)                                                    \
    type __wrap_##name parameters                                                                  \
    {                                                                                              \
        pthread_mutex_lock(&lock);                                                                 \
        step();                                                                                    \
        pthread_mutex_unlock(&lock);                                                               \
        return __real_##name arguments;                                                            \
    }

STEP(int, ftruncate64, (int fd, off_t size), (fd, size))
STEP(int, renameat2, (int from, const char *a, int to, const char *b, unsigned flags),
     (from, a, to, b, flags))
STEP(int, unlink, (const char *name), (name))

/* Each look at the clock finds it two seconds on: so each piece is logged. */
int __wrap_clock_gettime(clockid_t clock, struct timespec *t)
{
    static _Atomic time_t ahead;
    int ret = __real_clock_gettime(clock, t);
    ahead += 2;
    t->tv_sec += ahead;
    return ret;
}

/* ---- what is converted --------------------------------------------------------------------- */

/* In memory where that can be: what is flushed here need not reach a disk. */
static char folder[64] = "/dev/shm/test_resume_XXXXXX";
static uint8_t disk[DISK];

static const char *path(const char *name)
{
    static char text[8][128];
    static unsigned turn;
    char *p = text[turn++ % 8];
    snprintf(p, sizeof text[0], "%s/%s", folder, name);
    return p;
}

/* The same disk with bitmaps. */
static int make_bitmaps(void)
{
    const char *source = path("source.raw"), *names[] = {"one", "two"};
    const struct img_convert_options o = {
        .sources = &source, .source_count = 1, .format = "qcow2", .threads = 1};
    const struct img_open_options open = {.flags = IMG_OPEN_WRITE};
    const struct img_bitmap_action add = {.kind = IMG_BITMAP_ADD, .granularity = 65536};
    struct img *img;
    size_t failed;
    int ret = img_convert(path("source.qcow2"), &o, NULL);
    if (!ret)
        ret = img_open(&img, path("source.qcow2"), &open, NULL);
    for (size_t i = 0; i < 2 && !ret; i++)
        ret = img_bitmap_change(img, names[i], &add, 1, &failed, NULL);
    if (!ret)
        img_close(img);
    return ret;
}

/* Holes, data, and zeroes that only who reads them finds. */
static int setup(void **state)
{
    (void)state;
    uint32_t random = 1;
    if (!mkdtemp(folder) && !mkdtemp(strcpy(folder, "/tmp/test_resume_XXXXXX")))
        return -1;
    FILE *f = fopen(path("source.raw"), "wb");
    if (!f)
        return -1;
    for (size_t i = 0; i < DISK; i++) {
        random = random * 1103515245 + 12345;
        size_t part = (i >> 16) % 6; /* the last of three is a hole */
        disk[i] = part == 0 || part == 3 ? (uint8_t)(random >> 16) : part == 1 ? 'x' : 0;
    }
    for (size_t i = 0; i < DISK; i += 65536) {
        size_t n = DISK - i < 65536 ? DISK - i : 65536;
        if ((i >> 16) % 3 < 2 && (fseek(f, (long)i, SEEK_SET) || fwrite(disk + i, 1, n, f) != n))
            return -1;
    }
    return ftruncate(fileno(f), DISK) || fclose(f) ? -1 : make_bitmaps();
}

static int teardown(void **state)
{
    (void)state;
    unlink(path("source.raw"));
    unlink(path("source.qcow2"));
    return rmdir(folder);
}

/* Where the copy began. */
static uint64_t first_done;

static void note_progress(void *opaque, const char *phase, uint64_t done, uint64_t total)
{
    (void)opaque;
    (void)total;
    if (!strcmp(phase, "copy") && first_done == UINT64_MAX)
        first_done = done;
}

struct sample {
    const char *format, *options;
    unsigned flags;
    bool data_file, base;
};

static int convert(const struct sample *s, const char *target, unsigned flags, unsigned threads,
                   struct img_error *err)
{
    bool bitmaps = s->flags & IMG_CONVERT_BITMAPS;
    const char *raw = path("source.raw"), *source = bitmaps ? path("source.qcow2") : raw;
    char options[200];
    snprintf(options, sizeof options, "%s%s%s", s->options ? s->options : "",
             s->data_file ? ",data_file=" : "", s->data_file ? path("data") : "");
    struct img_convert_options o = {
        .sources = &source,
        .source_count = 1,
        .format = s->format,
        .options = s->options ? options : NULL,
        .backing_file = s->base ? raw : NULL,
        .backing_format = s->base ? "raw" : NULL,
        .flags = s->flags | flags,
        .threads = threads,
        .progress = note_progress,
    };
    return img_convert(path(target), &o, err);
}

static uint8_t *contents(const char *name, size_t *length)
{
    FILE *f = fopen(path(name), "rb");
    *length = 0;
    if (!f)
        return NULL;
    uint8_t *data = malloc(16 << 20);
    assert_non_null(data);
    *length = fread(data, 1, 16 << 20, f);
    fclose(f);
    return data;
}

struct result {
    uint8_t *image, *data;
    size_t image_length, data_length;
};

static struct result take_result(void)
{
    struct result r;
    r.image = contents("target", &r.image_length);
    r.data = contents("data", &r.data_length);
    __real_unlink(path("target"));
    __real_unlink(path("data"));
    return r;
}

static void assert_same(const struct result *a, const struct result *b)
{
    assert_int_equal(a->image_length, b->image_length);
    assert_memory_equal(a->image, b->image, a->image_length);
    assert_int_equal(a->data_length, b->data_length);
    if (a->data)
        assert_memory_equal(a->data, b->data, a->data_length);
}

static void clear_result(struct result *r)
{
    free(r->image);
    free(r->data);
}

static unsigned files(void)
{
    DIR *d = opendir(folder);
    unsigned n = 0;
    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

/* A run that ends at its N-th call. False: it came to its end before. */
static bool interrupted(const struct sample *s, long n, unsigned threads)
{
    int status;
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        struct img_error err = IMG_ERROR_INIT;
        countdown = n;
        dice = (uint32_t)n * 7919 + threads;
        int ret = convert(s, "target", IMG_CONVERT_RESUME, threads, &err);
        if (ret < 0)
            fprintf(stderr, "%s\n", img_error_message(&err));
        _exit(ret < 0 ? 1 : 0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_true(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == DIED);
    return WEXITSTATUS(status) == DIED;
}

static void finish(const struct sample *s, const struct result *wanted, unsigned threads)
{
    struct img_error err = IMG_ERROR_INIT;
    first_done = UINT64_MAX;
    if (convert(s, "target", IMG_CONVERT_RESUME, threads, &err) < 0)
        fail_msg("%s", img_error_message(&err));
    struct result now = take_result();
    assert_same(&now, wanted);
    clear_result(&now);
    assert_int_equal(files(), 2);
}

static void try_all(const struct sample *s)
{
    assert_int_equal(convert(s, "target", 0, 1, NULL), 0);
    struct result wanted = take_result(), now;
    long n = 1, twice = 0, went_on = 0;
    for (; interrupted(s, n, n % 3 ? 1 : 3); n++) {
        if (n % 4 == 0)
            twice += interrupted(s, 1 + n % 29, 2);
        finish(s, &wanted, 1 + n % 2);
        went_on += first_done > 0;
    }
    now = take_result();
    assert_same(&now, &wanted);
    clear_result(&now);
    clear_result(&wanted);
    print_message("%s %s: %ld steps, %ld twice, %ld went on\n", s->format,
                  s->options ? s->options : "", n, twice, went_on);
    assert_true(n > 20);
    assert_true(went_on > 3);
}

static const struct sample samples[] = {
    {"raw", NULL, 0, false, false},
    {"raw", "preallocation=full", IMG_CONVERT_DENSE, false, false},
    {"qcow2", "cluster_size=4k", 0, false, false},
    {"qcow2", "cluster_size=4k,refcount_bits=1", IMG_CONVERT_COMPRESS, false, false},
    {"qcow2", "extended_l2=on,preallocation=metadata", IMG_CONVERT_VERIFY, false, false},
    {"qcow2", "cluster_size=4k", 0, true, false},
    {"qcow2", "extended_l2=on", 0, false, true},
    {"qcow2", "cluster_size=512", IMG_CONVERT_BITMAPS, false, false},
    {"qcow2", "preallocation=metadata", IMG_CONVERT_BITMAPS, false, false},
};

static void every_call(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++)
        try_all(&samples[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_call)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
