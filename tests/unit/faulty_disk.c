#include "faulty_disk.h"
#include "lib/checked.h"

enum { SECTOR = 512 };

struct disk_file {
    struct file file; /* first: file_close frees it */
    struct disk *disk;
};

static struct disk *disk_of(struct file *f)
{
    return ((struct disk_file *)f)->disk;
}

/* Counts a call. What it must answer in the end, or 0. */
static int fault_of(struct file *f)
{
    struct disk_faults *x = disk_of(f)->faults;
    bool now = ++x->calls == x->countdown;
    x->happened |= now;
    if (!now && !(x->happened && x->fault == DISK_LASTING))
        return 0;
    return x->fault == DISK_ENOSPC ? -ENOSPC : -EIO;
}

/* How much a call that shall do LEN bytes does, when its answer is RET. */
static size_t done(struct file *f, size_t len, int ret)
{
    enum disk_fault fault = disk_of(f)->faults->fault;
    if (!ret || fault == DISK_AFTER)
        return len;
    return fault == DISK_ENOSPC ? align_down(len / 2, SECTOR) : 0;
}

static int64_t disk_pread(struct file *f, void *buf, size_t len, host_off off)
{
    const struct disk *d = disk_of(f);
    if (fault_of(f)) {
        memset(buf, 0xee, len);
        return -EIO;
    }
    size_t n = off.v < d->size ? (size_t)min_u64(len, d->size - off.v) : 0;
    memcpy(buf, d->data + off.v * (n > 0), n);
    return (int64_t)n;
}

static int disk_size(struct file *f, uint64_t *size)
{
    int ret = fault_of(f);
    *size = ret ? 0 : disk_of(f)->size;
    return ret;
}

static int64_t disk_allocated(struct file *f)
{
    return (int64_t)disk_of(f)->size;
}

static int disk_extent(struct file *f, host_off off, struct file_extent *out)
{
    const struct disk *d = disk_of(f);
    bool inside = off.v < d->size;
    *out = (struct file_extent){inside ? d->size - off.v : UINT64_MAX - off.v, inside};
    return fault_of(f);
}

static void set_size(struct disk *d, size_t size)
{
    assert_true(size <= d->room);
    if (size < d->size)
        memset(d->data + size, 0, d->size - size);
    d->size = size;
}

static int disk_pwrite(struct file *f, const void *buf, size_t len, host_off off)
{
    struct disk *d = disk_of(f);
    int ret = fault_of(f);
    size_t n = done(f, len, ret);
    if (n && off.v + n > d->size)
        set_size(d, off.v + n);
    memcpy(d->data + off.v * (n > 0), buf, n);
    return ret;
}

static int disk_truncate(struct file *f, uint64_t size)
{
    int ret = fault_of(f);
    if (!ret || disk_of(f)->faults->fault == DISK_AFTER)
        set_size(disk_of(f), size);
    return ret;
}

static int disk_zero(struct file *f, host_off off, uint64_t len)
{
    struct disk *d = disk_of(f);
    int ret = fault_of(f);
    assert_true(off.v + len <= d->size);
    memset(d->data + off.v, 0, done(f, len, ret));
    return ret;
}

static int disk_allocate(struct file *f, host_off off, uint64_t len)
{
    struct disk *d = disk_of(f);
    int ret = fault_of(f);
    if (!ret && off.v + len > d->size)
        set_size(d, off.v + len);
    return ret;
}

static int disk_flush(struct file *f)
{
    return fault_of(f);
}

static int64_t disk_space(struct file *f)
{
    (void)f;
    return INT64_MAX;
}

static void disk_close(struct file *f)
{
    (void)f;
}

static const struct file_ops disk_ops = {
    .protocol = "file",
    .pread = disk_pread,
    .size = disk_size,
    .allocated = disk_allocated,
    .extent = disk_extent,
    .close = disk_close,
    .pwrite = disk_pwrite,
    .truncate = disk_truncate,
    .allocate = disk_allocate,
    .zero = disk_zero,
    .flush = disk_flush,
    .space = disk_space,
};

struct file *disk_open(struct disk *disk, const char *name)
{
    struct disk_file *m = calloc(1, sizeof *m);
    assert_non_null(m);
    m->file = (struct file){
        .ops = &disk_ops, .name = strdup(name), .id = {0, (uintptr_t)disk}, .fd = -1};
    assert_non_null(m->file.name);
    m->disk = disk;
    return &m->file;
}

struct disk disk_new(const void *data, size_t size, struct disk_faults *faults)
{
    struct disk d = {.size = size, .room = 4 * size + (1 << 20), .faults = faults};
    d.data = calloc(1, d.room);
    assert_non_null(d.data);
    memcpy(d.data, data, size);
    return d;
}
