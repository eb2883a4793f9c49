/*
 * The bytes of an image, repaired: leaks alone, and all. Whatever they are, these promises hold:
 *
 *   a dry run leaves every byte alone, and plans what the repair then does
 *   a repair that fails has changed nothing
 *   after a repair, a check finds what it said would be left, and a second repair finds nothing
 *   left to do
 *   undo brings back the image, byte for byte
 *   wherever it is killed, undo does so too, and it can be repaired again, without leaks
 *
 * REPAIR_SURVEY=1 in the environment: go on after a broken promise, and count.
 */
#include "lib/file_undo.h"
#include "lib/image.h"

#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    MAX_SIZE = 128 << 20, /* of an image here */
    MAX_KILLS = 8,        /* of one repair */
};

/* ---- a file in memory that can be written -------------------------------------------------- */

struct bytes {
    uint8_t *data;
    size_t size, room; /* room: at least as many bytes are there */
};

struct memory {
    struct file file;
    struct bytes *b;
};

static bool too_large;            /* a repair would have made it so: it shows nothing here */
static long writes;               /* so far */
static long dead_from = LONG_MAX; /* from so many on, nothing is written any more */

static struct bytes *bytes_of(struct file *f)
{
    return ((struct memory *)f)->b;
}

static int64_t memory_pread(struct file *f, void *buf, size_t len, host_off off)
{
    const struct bytes *b = bytes_of(f);
    if (off.v >= b->size)
        return 0;
    size_t n = len < b->size - off.v ? len : b->size - (size_t)off.v;
    memcpy(buf, b->data + off.v, n);
    return (int64_t)n;
}

static int memory_size(struct file *f, uint64_t *size)
{
    *size = bytes_of(f)->size;
    return 0;
}

static int64_t memory_allocated(struct file *f)
{
    return (int64_t)bytes_of(f)->size;
}

static int memory_extent(struct file *f, host_off off, struct file_extent *out)
{
    *out = (struct file_extent){bytes_of(f)->size - off.v, true};
    return 0;
}

static void memory_close(struct file *f)
{
    (void)f;
}

static int memory_truncate(struct file *f, uint64_t size)
{
    struct bytes *b = bytes_of(f);
    too_large |= size > MAX_SIZE;
    if (too_large)
        return -EFBIG;
    if (writes >= dead_from)
        return -EIO;
    if (size > b->room) {
        b->room = size * 2;
        b->data = realloc(b->data, b->room);
    }
    if (!b->data)
        abort();
    if (size > b->size)
        memset(b->data + b->size, 0, size - b->size);
    b->size = size;
    return 0;
}

static int memory_pwrite(struct file *f, const void *buf, size_t len, host_off off)
{
    int ret = writes >= dead_from               ? -EIO
              : off.v + len > bytes_of(f)->size ? memory_truncate(f, off.v + len)
                                                : 0;
    writes++;
    if (!ret)
        memcpy(bytes_of(f)->data + off.v, buf, len);
    return ret;
}

static int memory_flush(struct file *f)
{
    (void)f;
    return 0;
}

static int memory_none(struct file *f, host_off off, uint64_t len)
{
    (void)f, (void)off, (void)len;
    return -EOPNOTSUPP;
}

static int64_t memory_space(struct file *f)
{
    (void)f;
    return -EOPNOTSUPP;
}

static const struct file_ops memory_ops = {
    .protocol = "file",
    .pread = memory_pread,
    .size = memory_size,
    .allocated = memory_allocated,
    .extent = memory_extent,
    .close = memory_close,
    .pwrite = memory_pwrite,
    .truncate = memory_truncate,
    .allocate = memory_none,
    .zero = memory_none,
    .flush = memory_flush,
    .space = memory_space,
};

static struct file *memory_open(struct bytes *b)
{
    struct memory *m = calloc(1, sizeof *m);
    if (!m)
        abort();
    m->file = (struct file){
        .ops = &memory_ops, .name = strdup("image"), .id = {0, (uintptr_t)b}, .fd = -1};
    m->b = b;
    return &m->file;
}

/* ---- promises ------------------------------------------------------------------------------ */

static const char *doing;

static void broken(int line, const char *what, const struct img_error *err)
{
    printf("BROKEN %s: line %d: %s%s%s\n", doing, line, what, err && err->message ? ": " : "",
           err && err->message ? err->message : "");
    fflush(stdout);
    if (!getenv("REPAIR_SURVEY"))
        abort();
}

#define PROMISE(condition, err)                                                                    \
    do {                                                                                           \
        if (!(condition))                                                                          \
            broken(__LINE__, #condition, err);                                                     \
    } while (0)

static struct img *open_image(struct bytes *b)
{
    struct img *img;
    unsigned flags = IMG_OPEN_CHECK | IMG_OPEN_WRITE | IMG_OPEN_NO_DATA;
    return img_open_file(&img, memory_open(b), NULL, "qcow2", flags, NULL) < 0 ? NULL : img;
}

static struct bytes copy(const uint8_t *data, size_t size)
{
    struct bytes b = {malloc(size + 1), size, size};
    if (!b.data)
        abort();
    memcpy(b.data, data, size);
    return b;
}

static bool same(const struct bytes *b, const uint8_t *data, size_t size)
{
    return b->size == size && !memcmp(b->data, data, size);
}

static void count_change(void *opaque, const struct img_change *c)
{
    (void)c;
    ++*(uint64_t *)opaque;
}

static int repair(struct bytes *b, struct img_repair_options *o, struct img_check *c,
                  struct img_error *err)
{
    struct img *img = open_image(b);
    int ret = img ? img_repair(img, o, c, err) : -EINVAL;
    img_close(img);
    return ret;
}

static void again(struct bytes *b, unsigned what, const struct img_check *left)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_check c = {0};
    struct bytes before = copy(b->data, b->size);
    struct img *img = open_image(b);
    PROMISE(img, NULL);
    int ret = img ? img_check(img, &c, NULL, NULL, &err) : 0;
    img_close(img);
    PROMISE(!ret, &err);
    PROMISE(c.corruptions == left->corruptions && c.leaks == left->leaks &&
                c.check_errors == left->check_errors,
            NULL);
    img_error_clear(&err);
    struct img_repair_options o = {.what = what};
    ret = repair(b, &o, &c, &err);
    PROMISE(!ret, &err);
    PROMISE(!c.corruptions_fixed && !c.leaks_fixed, NULL);
    PROMISE(same(b, before.data, before.size), NULL);
    if (getenv("REPAIR_SURVEY"))
        printf("left %s: %llu corruptions %llu leaks %llu errors\n", doing,
               (unsigned long long)c.corruptions, (unsigned long long)c.leaks,
               (unsigned long long)c.check_errors);
    free(before.data);
    img_error_clear(&err);
}

static void undo(struct bytes *b, const char *path, const uint8_t *data, size_t size)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_undone done;
    struct file *from = NULL, *to = memory_open(b);
    int ret = file_open_posix(&from, path, false, &err);
    if (!ret)
        ret = undo_apply(from, to, &done, &err);
    PROMISE(!ret, &err);
    PROMISE(same(b, data, size), NULL);
    file_close(from);
    file_close(to);
    img_error_clear(&err);
}

/* The repair dies after N writes: what is then on the disk. */
static void kill_at(long n, const uint8_t *data, size_t size, struct img_repair_options *o,
                    const struct img_check *left)
{
    struct bytes b = copy(data, size), c;
    struct img_check found = {0};
    struct img_repair_options plain = {.what = o->what};
    struct img_error err = IMG_ERROR_INIT;
    unlink(o->undo_file);
    writes = 0;
    dead_from = n;
    int ret = repair(&b, o, &found, NULL);
    dead_from = LONG_MAX;
    PROMISE(ret < 0, NULL);
    c = copy(b.data, b.size);
    ret = repair(&c, &plain, &found, &err);
    PROMISE(!ret && found.leaks <= left->leaks, &err);
    if (access(o->undo_file, F_OK) == 0)
        undo(&b, o->undo_file, data, size);
    PROMISE(same(&b, data, size), NULL);
    img_error_clear(&err);
    free(b.data);
    free(c.data);
}

/* It made COUNT writes. */
static void killed(long count, const uint8_t *data, size_t size, struct img_repair_options *o,
                   const struct img_check *left)
{
    long step = 1 + count / MAX_KILLS;
    for (long n = count % step; n < count; n += step)
        kill_at(n, data, size, o, left);
}

static void use(const uint8_t *data, size_t size, unsigned what)
{
    struct bytes b = copy(data, size);
    struct img_error err = IMG_ERROR_INIT;
    struct img_check planned = {0}, c = {0};
    uint64_t changes = 0;
    char path[64];
    const char *folder = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/undo.%d", folder ? folder : "/tmp", (int)getpid());
    struct img_repair_options plan = {
        .what = what, .dry_run = true, .change = count_change, .opaque = &changes};
    struct img_repair_options all = {.what = what, .undo_file = path};
    doing = what == IMG_REPAIR_ALL ? "-r all" : "-r leaks";
    int dry = repair(&b, &plan, &planned, NULL);
    PROMISE(same(&b, data, size), NULL);
    writes = 0;
    int ret = repair(&b, &all, &c, &err);
    long count = writes;
    PROMISE(dry == ret || too_large, &err);
    if (too_large) {
        too_large = false;
    } else if (ret < 0) {
        PROMISE(same(&b, data, size), NULL);
        if (getenv("REPAIR_SURVEY"))
            printf("refused %s: %s\n", doing, img_error_message(&err));
    } else {
        PROMISE(c.corruptions_fixed == planned.corruptions_fixed &&
                    c.leaks_fixed == planned.leaks_fixed && c.corruptions == planned.corruptions &&
                    c.leaks == planned.leaks,
                NULL);
        PROMISE(!changes == same(&b, data, size), NULL);
        again(&b, what, &c);
        undo(&b, path, data, size);
        killed(count, data, size, &all, &c);
    }
    unlink(path);
    img_error_clear(&err);
    free(b.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes b = copy(data, size);
    struct img *img = open_image(&b);
    img_close(img);
    free(b.data);
    if (img) {
        use(data, size, IMG_REPAIR_ALL);
        use(data, size, IMG_REPAIR_LEAKS);
    }
    return 0;
}
