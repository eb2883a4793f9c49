#include "record.h"
#include "crash_log.h"
#include "lib/checked.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 4096 }; /* what a host file system allocates at once */

void *must(void *p)
{
    if (p)
        return p;
    fputs("crash: out of memory\n", stderr);
    exit(1);
}

/* ---- disks -------------------------------------------------------------------------------- */

void disk_resize(struct disk *d, size_t size)
{
    if (size > d->room) {
        d->room = size + size / 2 + BLOCK;
        d->data = must(realloc(d->data, d->room));
    }
    if (size > d->size)
        memset(d->data + d->size, 0, size - d->size);
    d->size = size;
}

void disk_set(struct disk *d, const void *data, size_t size)
{
    d->size = 0;
    if (!size)
        return;
    if (size > d->room)
        disk_resize(d, size);
    memcpy(d->data, data, size);
    d->size = size;
}

void disk_free(struct disk *d)
{
    free(d->data);
    *d = (struct disk){0};
}

static void apply_range(struct disk *d, const struct op *o, uint64_t from, uint64_t to)
{
    if (to > d->size)
        disk_resize(d, to);
    if (o->kind == OP_WRITE)
        memcpy(d->data + from, o->data + (from - o->offset), to - from);
    else
        memset(d->data + from, 0, to - from);
}

void disk_apply(struct disk *d, const struct op *o)
{
    uint64_t end = o->offset + o->length;
    if (o->kind == OP_WRITE || o->kind == OP_ZERO)
        apply_range(d, o, o->offset, end);
    else if (o->kind == OP_TRUNCATE)
        disk_resize(d, o->offset);
    else if (o->kind == OP_GROW && end > d->size)
        disk_resize(d, end);
}

size_t op_sectors(const struct op *o)
{
    bool torn = o->kind == OP_WRITE || o->kind == OP_ZERO;
    return torn && o->length ? div_round_up(o->offset + o->length, SECTOR) - o->offset / SECTOR : 1;
}

void disk_apply_sectors(struct disk *d, const struct op *o, size_t first, size_t count)
{
    uint64_t base = align_down(o->offset, SECTOR);
    uint64_t from = max_u64(o->offset, base + first * SECTOR);
    uint64_t to = min_u64(o->offset + o->length, base + (first + count) * SECTOR);
    if (from < to)
        apply_range(d, o, from, to);
}

/* ---- logs --------------------------------------------------------------------------------- */

void log_add(struct log *l, const struct op *o)
{
    if (l->count == l->room) {
        l->room = l->room ? l->room * 2 : 64;
        l->ops = must(realloc(l->ops, l->room * sizeof *l->ops));
    }
    struct op *copy = &l->ops[l->count++];
    *copy = *o;
    if (o->kind == OP_WRITE) {
        copy->data = must(malloc(o->length ? o->length : 1));
        if (o->length)
            memcpy(copy->data, o->data, o->length);
    }
}

/*
 * A disk writes whole sectors, and the host has them whole in its memory: what stands around a
 * write that is shorter lands with it, as earlier writes have left it. AFTER: the file with it.
 */
static struct op whole_sectors(const struct op *o, const struct disk *after)
{
    struct op whole = *o;
    if (o->kind != OP_WRITE || !o->length)
        return whole;
    uint64_t end = min_u64(align_up(o->offset + o->length, SECTOR), after->size);
    whole.offset = align_down(o->offset, SECTOR);
    whole.length = end - whole.offset;
    whole.data = after->data + whole.offset;
    return whole;
}

void log_free(struct log *l)
{
    for (size_t i = 0; i < l->count; i++)
        if (l->ops[i].kind == OP_WRITE)
            free(l->ops[i].data);
    for (unsigned i = 0; i < l->files; i++)
        disk_free(&l->start[i]);
    free(l->ops);
    *l = (struct log){0};
}

static bool read_op(struct log *l, FILE *in, const struct logged *g)
{
    static const enum op_kind kinds[] = {
        [LOGGED_WRITE] = OP_WRITE,    [LOGGED_TRUNCATE] = OP_TRUNCATE, [LOGGED_ZERO] = OP_ZERO,
        [LOGGED_ZERO_GROW] = OP_ZERO, [LOGGED_GROW] = OP_GROW,         [LOGGED_FLUSH] = OP_FLUSH,
        [LOGGED_NAME] = OP_NAME,      [LOGGED_APPEAR] = OP_APPEAR};
    if (g->kind == LOGGED_NOTHING)
        return true;
    if (g->kind > LOGGED_NOTHING || g->length > 1u << 30 || g->offset > 1u << 30 ||
        g->file > FOLDER)
        return false;
    struct op o = {
        .kind = kinds[g->kind], .file = g->file, .offset = g->offset, .length = g->length};
    if (o.kind == OP_WRITE) {
        o.data = must(malloc(o.length));
        if (fread(o.data, 1, o.length, in) != o.length) {
            free(o.data);
            return false;
        }
    }
    log_add(l, &o);
    free(o.data);
    return true;
}

/* A hole that is punched past the end of the file changes nothing there. NOW: what the files are at
 * the end. */
static void cut_holes(struct log *l, struct disk *now)
{
    for (size_t i = 0; i < l->count; i++) {
        struct op *o = &l->ops[i];
        if (o->kind == OP_NAME)
            disk_set(&now[0], now[1].data, now[1].size);
        if (o->file == FOLDER)
            continue;
        size_t size = now[o->file].size;
        if (o->kind == OP_ZERO && o->offset + o->length > size)
            o->length = o->offset < size ? size - o->offset : 0;
        disk_apply(&now[o->file], o);
        struct op whole = whole_sectors(o, &now[o->file]);
        if (whole.length == o->length)
            continue;
        whole.data = must(malloc(whole.length));
        memcpy(whole.data, now[o->file].data + whole.offset, whole.length);
        free(o->data);
        *o = whole;
    }
}

bool log_read(struct log *l, const char *path, const struct disk *start, struct disk *end)
{
    struct disk now[MAX_FILES] = {0};
    *l = (struct log){.files = MAX_FILES};
    disk_set(&l->start[0], start->data, start->size);
    disk_set(&now[0], start->data, start->size);
    FILE *in = fopen(path, "rb");
    bool good = in != NULL;
    struct logged g;
    size_t got;
    while (good && (got = fread(&g, 1, sizeof g, in)) > 0) {
        bool grows = g.kind == LOGGED_ZERO_GROW; /* first longer, then zeroed: as one step */
        good = got == sizeof g;
        if (good && grows)
            log_add(l,
                    &(struct op){
                        .kind = OP_GROW, .file = g.file, .offset = g.offset, .length = g.length});
        good = good && read_op(l, in, &g);
    }
    if (in)
        fclose(in);
    if (good)
        cut_holes(l, now);
    else
        log_free(l);
    if (good && end)
        disk_set(end, now[0].data, now[0].size);
    for (unsigned i = 0; i < MAX_FILES; i++)
        disk_free(&now[i]);
    return good;
}

/* ---- the backend -------------------------------------------------------------------------- */

struct recorded_file {
    struct file file; /* first: file_close frees it */
    struct recorder *recorder;
    const struct disk *disk;
    unsigned index;
};

static struct recorded_file *recorded(struct file *f)
{
    return (struct recorded_file *)f;
}

/* A change that has happened: to be remembered. */
static int change(struct file *f, const struct op *o)
{
    struct recorded_file *r = recorded(f);
    struct disk *now = &r->recorder->now[r->index];
    disk_apply(now, o);
    struct op whole = whole_sectors(o, now);
    whole.file = r->index;
    log_add(&r->recorder->log, &whole);
    return 0;
}

static int64_t rec_pread(struct file *f, void *buf, size_t len, host_off off)
{
    const struct disk *d = recorded(f)->disk;
    size_t n = off.v < d->size ? (size_t)min_u64(len, d->size - off.v) : 0;
    if (n)
        memcpy(buf, d->data + off.v, n);
    return (int64_t)n;
}

static int rec_size(struct file *f, uint64_t *size)
{
    *size = recorded(f)->disk->size;
    return 0;
}

static bool block_has_data(const struct disk *d, size_t block)
{
    static const uint8_t zeroes[BLOCK];
    size_t at = block * BLOCK;
    return memcmp(d->data + at, zeroes, (size_t)min_u64(BLOCK, d->size - at)) != 0;
}

static int64_t rec_allocated(struct file *f)
{
    const struct disk *d = recorded(f)->disk;
    int64_t bytes = 0;
    for (size_t i = 0; i * BLOCK < d->size; i++)
        bytes += block_has_data(d, i) ? BLOCK : 0;
    return bytes;
}

/* Blocks of zeroes are taken for holes. */
static int rec_extent(struct file *f, host_off off, struct file_extent *out)
{
    const struct disk *d = recorded(f)->disk;
    *out = (struct file_extent){.length = UINT64_MAX - off.v, .data = false};
    if (off.v >= d->size)
        return 0;
    size_t block = off.v / BLOCK;
    out->data = block_has_data(d, block);
    while (block * BLOCK < d->size && block_has_data(d, block) == out->data)
        block++;
    if (block * BLOCK < d->size || out->data)
        out->length = min_u64(block * BLOCK, d->size) - off.v;
    return 0;
}

static void rec_close(struct file *f)
{
    (void)f;
}

static int rec_pwrite(struct file *f, const void *buf, size_t len, host_off off)
{
    uint64_t size = recorded(f)->disk->size;
    if (f->device && off.v + len > size)
        return -ENOSPC;
    return change(
        f, &(struct op){.kind = OP_WRITE, .offset = off.v, .length = len, .data = (uint8_t *)buf});
}

static int rec_truncate(struct file *f, uint64_t size)
{
    if (f->device)
        return size <= recorded(f)->disk->size ? 0 : -ENOSPC;
    return change(f, &(struct op){.kind = OP_TRUNCATE, .offset = size});
}

static int rec_allocate(struct file *f, host_off off, uint64_t len)
{
    if (f->device)
        return -EOPNOTSUPP;
    return change(f, &(struct op){.kind = OP_GROW, .offset = off.v, .length = len});
}

static int rec_zero(struct file *f, host_off off, uint64_t len)
{
    uint64_t size = recorded(f)->disk->size;
    if (off.v >= size)
        return 0;
    len = min_u64(len, size - off.v);
    return change(f, &(struct op){.kind = OP_ZERO, .offset = off.v, .length = len});
}

static int rec_flush(struct file *f)
{
    return change(f, &(struct op){.kind = OP_FLUSH});
}

static int64_t rec_space(struct file *f)
{
    (void)f;
    return INT64_MAX;
}

static const struct file_ops recording_ops = {
    .protocol = "file",
    .pread = rec_pread,
    .size = rec_size,
    .allocated = rec_allocated,
    .extent = rec_extent,
    .close = rec_close,
    .pwrite = rec_pwrite,
    .truncate = rec_truncate,
    .allocate = rec_allocate,
    .zero = rec_zero,
    .flush = rec_flush,
    .space = rec_space,
};

static const struct file_ops reading_ops = {
    .protocol = "file",
    .pread = rec_pread,
    .size = rec_size,
    .allocated = rec_allocated,
    .extent = rec_extent,
    .close = rec_close,
};

static struct file *open_disk(const struct file_ops *ops, const struct disk *d, const char *name,
                              struct recorder *r, unsigned index)
{
    struct recorded_file *f = must(calloc(1, sizeof *f));
    f->file = (struct file){
        .ops = ops, .name = must(strdup(name)), .id = {0, (uintptr_t)d}, .fd = -1};
    f->recorder = r;
    f->disk = d;
    f->index = index;
    return &f->file;
}

struct file *record_open(struct recorder *r, unsigned file, const char *name)
{
    struct file *f = open_disk(&recording_ops, &r->now[file], name, r, file);
    f->device = r->device && file == 0;
    return f;
}

struct file *disk_open(const struct disk *d, const char *name)
{
    return open_disk(&reading_ops, d, name, NULL, 0);
}

void recorder_init(struct recorder *r, const struct disk *start, unsigned count)
{
    *r = (struct recorder){.log.files = count};
    for (unsigned i = 0; i < count; i++) {
        disk_set(&r->log.start[i], start[i].data, start[i].size);
        disk_set(&r->now[i], start[i].data, start[i].size);
    }
}

void recorder_free(struct recorder *r)
{
    for (unsigned i = 0; i < MAX_FILES; i++)
        disk_free(&r->now[i]);
    log_free(&r->log);
}

void recorder_step(struct recorder *r, unsigned step, bool durable)
{
    log_add(&r->log, &(struct op){.kind = OP_STEP, .offset = step, .durable = durable});
}
