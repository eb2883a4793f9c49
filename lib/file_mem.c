/* A host file in memory, for tests and fuzzers. It has no holes and takes no space. */
#include "lib/file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int64_t mem_pread(struct file *f, void *buf, size_t len, host_off off)
{
    if (off.v >= f->mem_size)
        return 0;
    size_t left = f->mem_size - off.v;
    size_t n = len < left ? len : left;
    memcpy(buf, (const char *)f->mem + off.v, n);
    return (int64_t)n;
}

static int mem_size(struct file *f, uint64_t *size)
{
    *size = f->mem_size;
    return 0;
}

static int64_t mem_allocated(struct file *f)
{
    return (int64_t)f->mem_size;
}

static int mem_extent(struct file *f, host_off off, struct file_extent *out)
{
    bool data = off.v < f->mem_size;
    *out = (struct file_extent){data ? f->mem_size - off.v : UINT64_MAX - off.v, data};
    return 0;
}

static void mem_close(struct file *f)
{
    (void)f;
}

static const struct file_ops mem_ops = {
    .protocol = "file",
    .pread = mem_pread,
    .size = mem_size,
    .allocated = mem_allocated,
    .extent = mem_extent,
    .close = mem_close,
};

int file_open_memory(struct file **out, const char *name, const void *data, size_t size,
                     struct img_error *err)
{
    struct file *f = calloc(1, sizeof *f);
    char *copy = strdup(name);
    if (!f || !copy) {
        free(f);
        free(copy);
        return img_fail_nomem(err);
    }
    *f = (struct file){.ops = &mem_ops,
                       .name = copy,
                       .id = {0, (uintptr_t)data},
                       .fd = -1,
                       .mem = data,
                       .mem_size = size};
    *out = f;
    return 0;
}
