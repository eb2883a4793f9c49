/* Sectors by number in a hash table; their bytes in slots, which lie in memory or in a file. */
#include "lib/file_overlay.h"
#include "lib/checked.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    SECTOR = 512,
    RUN = 64 << 10,      /* bytes written at once */
    CHUNK_SECTORS = 64,  /* of memory */
    MAX_SCAN = 64 << 10, /* entries of the table, one after the other */
};

struct changed {
    uint64_t sector;
    uint32_t slot;  /* where its bytes are, plus 1; 0: a free entry */
    uint32_t stage; /* in which it was written last */
};

struct overlay {
    struct file file;
    struct file *below;
    uint64_t old_size, size;
    struct changed *table;
    size_t capacity, count; /* capacity: a power of two */
    uint8_t **chunks;       /* of the first slots */
    size_t chunk_count, chunk_max;
    int spill; /* the file of the others; -1: none so far */
    uint32_t stage;
    bool written; /* in this stage */
};

/* ---- the bytes of a sector ----------------------------------------------------------------- */

static int open_spill(struct overlay *o)
{
    const char *folder = getenv("TMPDIR");
    char path[4096];
    folder = folder && *folder ? folder : "/tmp";
    o->spill = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (o->spill >= 0)
        return 0;
    if (strlen(folder) > sizeof path - 32) /* where there is no O_TMPFILE: */
        return -ENAMETOOLONG;
    strcat(strcpy(path, folder), "/imgtool.XXXXXX");
    o->spill = mkostemp(path, O_CLOEXEC);
    if (o->spill < 0)
        return -errno;
    unlink(path);
    return 0;
}

/* Where SLOT lies in memory, or NULL. */
static uint8_t *in_memory(const struct overlay *o, uint32_t slot)
{
    size_t chunk = (slot - 1) / CHUNK_SECTORS;
    return chunk < o->chunk_max ? o->chunks[chunk] + (size_t)((slot - 1) % CHUNK_SECTORS) * SECTOR
                                : NULL;
}

static int load(const struct overlay *o, uint32_t slot, uint8_t *buf)
{
    const uint8_t *p = in_memory(o, slot);
    if (p) {
        memcpy(buf, p, SECTOR);
        return 0;
    }
    ssize_t n = pread(o->spill, buf, SECTOR, (off_t)slot * SECTOR);
    return n == SECTOR ? 0 : n < 0 ? -errno : -EIO;
}

static int store(struct overlay *o, uint32_t slot, const uint8_t *buf)
{
    size_t chunk = (slot - 1) / CHUNK_SECTORS;
    if (chunk < o->chunk_max) {
        if (chunk == o->chunk_count) {
            o->chunks[chunk] = malloc((size_t)CHUNK_SECTORS * SECTOR);
            if (!o->chunks[chunk])
                return -ENOMEM;
            o->chunk_count++;
        }
        memcpy(in_memory(o, slot), buf, SECTOR);
        return 0;
    }
    int ret = o->spill < 0 ? open_spill(o) : 0;
    if (ret < 0)
        return ret;
    ssize_t n = pwrite(o->spill, buf, SECTOR, (off_t)slot * SECTOR);
    return n == SECTOR ? 0 : n < 0 ? -errno : -ENOSPC;
}

/* ---- which sectors ------------------------------------------------------------------------- */

/* The entry of SECTOR, or the free one where it belongs. */
static struct changed *entry_of(struct changed *table, size_t capacity, uint64_t sector)
{
    size_t i = (size_t)(sector * 0x9e3779b97f4a7c15ull >> 20);
    for (;; i++) {
        struct changed *c = &table[i & (capacity - 1)];
        if (!c->slot || c->sector == sector)
            return c;
    }
}

static const struct changed *find(const struct overlay *o, uint64_t sector)
{
    const struct changed *c = o->count ? entry_of(o->table, o->capacity, sector) : NULL;
    return c && c->slot ? c : NULL;
}

static int grow(struct overlay *o)
{
    size_t capacity = o->capacity ? o->capacity * 2 : 64;
    struct changed *wider = calloc(capacity, sizeof *wider);
    if (!wider)
        return -ENOMEM;
    for (size_t i = 0; i < o->capacity; i++)
        if (o->table[i].slot)
            *entry_of(wider, capacity, o->table[i].sector) = o->table[i];
    free(o->table);
    o->table = wider;
    o->capacity = capacity;
    return 0;
}

static int put(struct overlay *o, uint64_t sector, const uint8_t *buf)
{
    int ret = o->count * 3 >= o->capacity * 2 ? grow(o) : 0;
    if (ret < 0)
        return ret;
    struct changed *c = entry_of(o->table, o->capacity, sector);
    uint32_t slot = c->slot ? c->slot : (uint32_t)o->count + 1;
    if (!slot) /* 2 TiB of changes */
        return -EFBIG;
    ret = store(o, slot, buf);
    if (ret < 0)
        return ret;
    bool again = c->slot && sector * SECTOR >= o->old_size;
    o->count += !c->slot;
    *c = (struct changed){sector, slot, again ? c->stage : o->stage};
    o->written = true;
    return 0;
}

/* ---- the file ------------------------------------------------------------------------------ */

static int64_t overlay_pread(struct file *f, void *buf, size_t len, host_off off)
{
    struct overlay *o = (struct overlay *)f;
    if (off.v >= o->size)
        return 0;
    len = (size_t)min_u64(len, o->size - off.v);
    int64_t got = o->below->ops->pread(o->below, buf, len, off);
    if (got < 0)
        return got;
    memset((uint8_t *)buf + got, 0, len - (size_t)got);
    for (uint64_t at = align_down(off.v, SECTOR); at < off.v + len && o->count; at += SECTOR) {
        const struct changed *c = find(o, at / SECTOR);
        uint8_t sector[SECTOR];
        int ret = c ? load(o, c->slot, sector) : 0;
        if (ret < 0)
            return ret;
        uint64_t from = max_u64(at, off.v), to = min_u64(at + SECTOR, off.v + len);
        if (c)
            memcpy((uint8_t *)buf + (from - off.v), sector + (from - at), (size_t)(to - from));
    }
    return (int64_t)len;
}

static int overlay_pwrite(struct file *f, const void *buf, size_t len, host_off off)
{
    struct overlay *o = (struct overlay *)f;
    if (off.v > INT64_MAX - len)
        return -EFBIG;
    for (uint64_t at = align_down(off.v, SECTOR); at < off.v + len; at += SECTOR) {
        uint64_t from = max_u64(at, off.v), to = min_u64(at + SECTOR, off.v + len);
        uint8_t sector[SECTOR] = {0};
        int64_t got = to - from < SECTOR ? overlay_pread(f, sector, SECTOR, host(at)) : 0;
        if (got < 0)
            return (int)got;
        memcpy(sector + (from - at), (const uint8_t *)buf + (from - off.v), (size_t)(to - from));
        int ret = put(o, at / SECTOR, sector);
        if (ret < 0)
            return ret;
    }
    o->size = max_u64(o->size, off.v + len);
    return 0;
}

static int overlay_size(struct file *f, uint64_t *size)
{
    *size = ((struct overlay *)f)->size;
    return 0;
}

static int64_t overlay_allocated(struct file *f)
{
    struct overlay *o = (struct overlay *)f;
    int64_t below = o->below->ops->allocated(o->below);
    return below < 0 ? below : below + (int64_t)o->count * SECTOR;
}

/* The first changed sector from FROM on; with very many changes, FROM itself. */
static uint64_t next_changed(const struct overlay *o, uint64_t from)
{
    uint64_t next = UINT64_MAX / SECTOR;
    if (o->capacity > MAX_SCAN)
        return from;
    for (size_t i = 0; i < o->capacity; i++)
        if (o->table[i].slot && o->table[i].sector >= from)
            next = min_u64(next, o->table[i].sector);
    return next;
}

static int overlay_extent(struct file *f, host_off off, struct file_extent *out)
{
    struct overlay *o = (struct overlay *)f;
    *out = (struct file_extent){o->size - off.v, false};
    if (off.v < o->old_size) {
        int ret = o->below->ops->extent(o->below, off, out);
        out->length = min_u64(out->length, o->old_size - off.v);
        if (ret < 0 || out->data)
            return ret;
    }
    uint64_t next = next_changed(o, off.v / SECTOR) * SECTOR;
    if (next > off.v)
        out->length = min_u64(out->length, next - off.v);
    else
        *out = (struct file_extent){min_u64(out->length, next + SECTOR - off.v), true};
    return 0;
}

static int overlay_flush(struct file *f)
{
    struct overlay *o = (struct overlay *)f;
    o->stage += o->written;
    o->written = false;
    return 0;
}

/* Only writing is kept so far: who needs more adds it here. */
static int overlay_truncate(struct file *f, uint64_t size)
{
    (void)f, (void)size;
    return -EOPNOTSUPP;
}

static int overlay_range(struct file *f, host_off off, uint64_t len)
{
    (void)f, (void)off, (void)len;
    return -EOPNOTSUPP;
}

static int64_t overlay_space(struct file *f)
{
    struct overlay *o = (struct overlay *)f;
    return o->below->ops->space ? o->below->ops->space(o->below) : -EOPNOTSUPP;
}

static void overlay_close(struct file *f)
{
    struct overlay *o = (struct overlay *)f;
    for (size_t i = 0; i < o->chunk_count; i++)
        free(o->chunks[i]);
    free(o->chunks);
    free(o->table);
    if (o->spill >= 0)
        close(o->spill);
}

static const struct file_ops overlay_ops = {
    .protocol = "file",
    .pread = overlay_pread,
    .size = overlay_size,
    .allocated = overlay_allocated,
    .extent = overlay_extent,
    .close = overlay_close,
    .pwrite = overlay_pwrite,
    .truncate = overlay_truncate,
    .allocate = overlay_range,
    .zero = overlay_range,
    .flush = overlay_flush,
    .space = overlay_space,
};

int overlay_open(struct file **out, struct file *below, size_t memory, struct img_error *err)
{
    struct overlay *o = calloc(1, sizeof *o);
    char *name = strdup(below->name);
    size_t chunks = memory / SECTOR / CHUNK_SECTORS;
    uint8_t **list = calloc(chunks + !chunks, sizeof *list);
    int ret = o && name && list ? 0 : img_fail_nomem(err);
    if (!ret)
        ret = file_size(below, &o->old_size, err);
    if (ret < 0) {
        free(o);
        free(name);
        free(list);
        return ret;
    }
    o->file = *below;
    o->file.ops = &overlay_ops;
    o->file.name = name;
    o->below = below;
    o->size = o->old_size;
    o->chunks = list;
    o->chunk_max = chunks;
    o->spill = -1;
    *out = &o->file;
    return 0;
}

uint32_t overlay_stage(const struct file *overlay)
{
    return ((const struct overlay *)overlay)->stage;
}

/* ---- doing it ------------------------------------------------------------------------------ */

static int by_stage(const void *a, const void *b)
{
    const struct changed *x = a, *y = b;
    if (x->stage != y->stage)
        return x->stage < y->stage ? -1 : 1;
    return (x->sector > y->sector) - (x->sector < y->sector);
}

struct replay {
    struct overlay *o;
    struct file *to;
    struct overlay_progress *progress;
    struct img_error *err;
    uint8_t *old, *new;
    bool any; /* in this stage */
};

/* N changed sectors in a row, of which those are written that differ. */
static int replay_run(struct replay *r, const struct changed *c, size_t n)
{
    struct overlay *o = r->o;
    uint64_t start = c->sector * SECTOR;
    size_t len = (size_t)min_u64((uint64_t)n * SECTOR, o->size - start), end;
    int ret = file_read_padded(o->below, r->old, len, host(start), r->err);
    for (size_t i = 0; i < n && !ret; i++)
        if ((ret = load(o, c[i].slot, r->new + i *SECTOR)) < 0)
            return img_fail_errno(r->err, -ret, "Could not read a temporary file");
    for (size_t at = 0; at < len && !ret; at = end) {
        end = at;
        while (end < len &&
               (start + end + SECTOR > o->old_size ||
                memcmp(r->old + end, r->new + end, (size_t)min_u64(SECTOR, len - end))))
            end += SECTOR;
        end = (size_t)min_u64(end, len);
        if (end > at) {
            r->any = true;
            ret = file_write(r->to, r->new + at, end - at, host(start + at), r->err);
            r->progress->inside |= ret != -ECANCELED && start + at < o->old_size;
        } else {
            end = at + SECTOR;
        }
    }
    return ret;
}

static int replay_stage(struct replay *r, const struct changed *c, size_t n)
{
    int ret = 0;
    r->any = false;
    for (size_t i = 0, k; i < n && !ret; i = k) {
        for (k = i + 1; k < n && k - i < RUN / SECTOR && c[k].sector == c[k - 1].sector + 1;)
            k++;
        ret = replay_run(r, c + i, k - i);
    }
    return ret || !r->any ? ret : file_flush(r->to, r->err);
}

/* All that has changed, in the order in which it is done. */
static struct changed *sort_changes(const struct overlay *o)
{
    struct changed *sorted = calloc(o->count + 1, sizeof *sorted);
    size_t n = 0;
    for (size_t i = 0; i < o->capacity && sorted; i++)
        if (o->table[i].slot)
            sorted[n++] = o->table[i];
    if (n)
        qsort(sorted, n, sizeof *sorted, by_stage);
    return sorted;
}

int overlay_replay(struct file *overlay, struct file *to, uint32_t safe,
                   struct overlay_progress *progress, struct img_error *err)
{
    struct overlay *o = (struct overlay *)overlay;
    struct replay r = {.o = o, .to = to, .progress = progress, .err = err};
    struct changed *sorted = sort_changes(o);
    const struct cancel *cancel = to->cancel;
    *progress = (struct overlay_progress){0};
    r.old = malloc(RUN);
    r.new = malloc(RUN);
    int ret = sorted && r.old && r.new ? 0 : img_fail_nomem(err);
    for (size_t i = 0, k; i < o->count && !ret; i = k) {
        for (k = i + 1; k < o->count && sorted[k].stage == sorted[i].stage;)
            k++;
        if (sorted[i].stage >= safe) {
            to->cancel = NULL;
            progress->begun = true;
        }
        ret = replay_stage(&r, sorted + i, k - i);
    }
    to->cancel = cancel;
    free(sorted);
    free(r.old);
    free(r.new);
    return ret;
}
