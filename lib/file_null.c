/*
 * QEMU's null-co: a file of a stated length that holds nothing. It reads as zeroes, all of it a
 * hole, and what is written to it is gone.
 */
#include "lib/checked.h"
#include "lib/file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct null_file {
    struct file file;
    uint64_t size;
};

static uint64_t size_of(const struct file *f)
{
    return ((const struct null_file *)f)->size;
}

static int64_t null_pread(struct file *f, void *buf, size_t len, host_off off)
{
    uint64_t size = size_of(f);
    uint64_t n = off.v < size ? min_u64(len, size - off.v) : 0;
    memset(buf, 0, n);
    return (int64_t)n;
}

static int null_size(struct file *f, uint64_t *size)
{
    *size = size_of(f);
    return 0;
}

static int64_t null_allocated(struct file *f)
{
    (void)f;
    return 0;
}

static int null_extent(struct file *f, host_off off, struct file_extent *out)
{
    (void)f;
    *out = (struct file_extent){UINT64_MAX - off.v, false};
    return 0;
}

static void null_close(struct file *f)
{
    (void)f;
}

/* Devices are as strict: nothing lies behind the end. */
static int check_end(const struct file *f, host_off off, uint64_t len)
{
    uint64_t size = size_of(f);
    return off.v <= size && len <= size - off.v ? 0 : -ENOSPC;
}

static int null_pwrite(struct file *f, const void *buf, size_t len, host_off off)
{
    (void)buf;
    return check_end(f, off, len);
}

static int null_truncate(struct file *f, uint64_t size)
{
    return check_end(f, host(0), size);
}

static int null_range(struct file *f, host_off off, uint64_t len)
{
    return check_end(f, off, len);
}

static int null_flush(struct file *f)
{
    (void)f;
    return 0;
}

static int64_t null_space(struct file *f)
{
    (void)f;
    return -ENOTSUP;
}

static const struct file_ops null_ops = {
    .protocol = "null-co",
    .pread = null_pread,
    .size = null_size,
    .allocated = null_allocated,
    .extent = null_extent,
    .close = null_close,
    .pwrite = null_pwrite,
    .truncate = null_truncate,
    .allocate = null_range,
    .zero = null_range,
    .flush = null_flush,
    .space = null_space,
};

int file_open_null(struct file **out, const char *name, uint64_t size, struct img_error *err)
{
    struct null_file *n = calloc(1, sizeof *n);
    char *copy = strdup(name);
    if (!n || !copy) {
        free(n);
        free(copy);
        return img_fail_nomem(err);
    }
    n->size = size;
    n->file = (struct file){
        .ops = &null_ops, .name = copy, .id = {0, (uintptr_t)n}, .fd = -1, .device = true};
    *out = &n->file;
    return 0;
}
