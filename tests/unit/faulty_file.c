#include "faulty_file.h"
#include "lib/checked.h"

#include <inttypes.h>
#include <stdio.h>

enum { BLOCK = 4096 };

struct faulty_file {
    struct file file; /* first: file_close frees it */
    struct faults *faults;
    const uint8_t *data;
    size_t size;
};

static const struct faulty_file *faulty(const struct file *f)
{
    return (const struct faulty_file *)f;
}

void faults_arm(struct faults *x, enum fault fault, long n)
{
    *x = (struct faults){.fault = fault, .countdown = n};
}

void faults_heal(struct faults *x)
{
    faults_arm(x, FAULT_ONCE, 0);
}

/* Counts a call. True: it has to fail. */
static bool fails(struct file *f)
{
    struct faults *x = faulty(f)->faults;
    bool now = ++x->calls == x->countdown;
    if (now) {
        x->happened = true;
        x->file = f;
    }
    return now || (x->happened && x->fault == FAULT_LASTING);
}

static size_t end_of(const struct file *f)
{
    const struct faulty_file *m = faulty(f);
    const struct faults *x = m->faults;
    bool cut = x->happened && x->fault == FAULT_CUT && x->file == f;
    return cut ? (size_t)min_u64(x->cut, m->size) : m->size;
}

static int64_t faulty_pread(struct file *f, void *buf, size_t len, host_off off)
{
    struct faults *x = faulty(f)->faults;
    if (fails(f)) {
        if (x->fault != FAULT_CUT) {
            snprintf(x->message, sizeof x->message,
                     "Could not read %zu bytes at %#" PRIx64 " of '%s': Input/output error", len,
                     off.v, f->name);
            memset(buf, 0xee, len); /* a call that fails may have written anything */
            return -EIO;
        }
        x->cut = off.v + len / 2;
    }
    size_t end = end_of(f);
    size_t n = off.v < end ? (size_t)min_u64(len, end - off.v) : 0;
    memcpy(buf, faulty(f)->data + off.v * (n > 0), n);
    return (int64_t)n;
}

static int faulty_size(struct file *f, uint64_t *size)
{
    struct faults *x = faulty(f)->faults;
    if (fails(f)) {
        if (x->fault != FAULT_CUT) {
            snprintf(x->message, sizeof x->message,
                     "Could not get the size of '%s': Input/output error", f->name);
            return -EIO;
        }
        x->cut = faulty(f)->size / 2 + 100;
    }
    *size = end_of(f);
    return 0;
}

static bool is_data(const struct faulty_file *m, size_t block)
{
    size_t at = block * BLOCK, n = (size_t)min_u64(BLOCK, m->size - at);
    for (size_t i = 0; i < n; i++)
        if (m->data[at + i])
            return true;
    return false;
}

static int64_t faulty_allocated(struct file *f)
{
    const struct faulty_file *m = faulty(f);
    int64_t bytes = 0;
    for (size_t i = 0; i * BLOCK < m->size; i++)
        bytes += is_data(m, i) ? BLOCK : 0;
    return bytes;
}

static int faulty_extent(struct file *f, host_off off, struct file_extent *out)
{
    const struct faulty_file *m = faulty(f);
    struct faults *x = m->faults;
    if (fails(f)) {
        if (x->fault != FAULT_CUT) {
            snprintf(x->message, sizeof x->message, "Could not find the holes of '%s'", f->name);
            return -EIO;
        }
        x->cut = off.v + BLOCK;
    }
    size_t end = end_of(f), block = off.v / BLOCK;
    *out = (struct file_extent){.length = UINT64_MAX - off.v, .data = false};
    if (off.v >= end)
        return 0;
    out->data = is_data(m, block);
    while (block * BLOCK < end && is_data(m, block) == out->data)
        block++;
    if (block * BLOCK < end || out->data)
        out->length = min_u64(block * BLOCK, end) - off.v;
    return 0;
}

static void faulty_close(struct file *f)
{
    (void)f;
}

static const struct file_ops faulty_ops = {
    .protocol = "file",
    .pread = faulty_pread,
    .size = faulty_size,
    .allocated = faulty_allocated,
    .extent = faulty_extent,
    .close = faulty_close,
};

struct file *faulty_open(struct faults *faults, const char *name, const void *data, size_t size)
{
    struct faulty_file *m = calloc(1, sizeof *m);
    assert_non_null(m);
    m->file = (struct file){
        .ops = &faulty_ops, .name = strdup(name), .id = {0, (uintptr_t)data}, .fd = -1};
    assert_non_null(m->file.name);
    m->faults = faults;
    m->data = data;
    m->size = size;
    return &m->file;
}
