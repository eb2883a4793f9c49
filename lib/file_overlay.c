/* A file, its changes in a log of sectors; what the log holds is sorted once it is to be done. */
#include "lib/file_overlay.h"
#include "lib/checked.h"
#include "lib/sector_log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    SECTOR = SECTOR_LOG_BYTES,
    RUN = 64 << 10,      /* bytes written at once */
    MAX_SCAN = 64 << 10, /* versions, one after the other */
};

struct overlay {
    struct file file;
    struct file *below;
    uint64_t old_size, size;
    struct sector_log log;
    uint32_t stage;
    bool written; /* in this stage */
};

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
    for (uint64_t at = align_down(off.v, SECTOR); at < off.v + len && o->log.count; at += SECTOR) {
        uint32_t slot = sector_log_find(&o->log, at / SECTOR);
        uint8_t sector[SECTOR];
        int ret = slot ? sector_log_load(&o->log, slot, sector) : 0;
        if (ret < 0)
            return ret;
        uint64_t from = max_u64(at, off.v), to = min_u64(at + SECTOR, off.v + len);
        if (slot)
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
        int ret = sector_log_put(&o->log, at / SECTOR, o->stage, sector);
        if (ret < 0)
            return ret;
        o->written = true;
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
    return below < 0 ? below : below + (int64_t)o->log.count * SECTOR;
}

/* The first changed sector from FROM on; with very many changes, FROM itself. */
static uint64_t next_changed(const struct overlay *o, uint64_t from)
{
    uint64_t next = UINT64_MAX / SECTOR;
    if (o->log.count > MAX_SCAN)
        return from;
    for (size_t i = 0; i < o->log.count; i++)
        if (o->log.versions[i].sector >= from)
            next = min_u64(next, o->log.versions[i].sector);
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
    sector_log_free(&o->log);
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
    int ret = o && name && !sector_log_init(&o->log, memory) ? 0 : img_fail_nomem(err);
    if (!ret)
        ret = file_size(below, &o->old_size, err);
    if (ret < 0) {
        if (o)
            free(o->log.chunks);
        free(o);
        free(name);
        return ret;
    }
    o->file = *below;
    o->file.ops = &overlay_ops;
    o->file.name = name;
    o->below = below;
    o->size = o->old_size;
    *out = &o->file;
    return 0;
}

uint32_t overlay_stage(const struct file *overlay)
{
    return ((const struct overlay *)overlay)->stage;
}

/* ---- what is to be done, sorted ------------------------------------------------------------ */

struct changed {
    uint64_t sector;
    uint32_t number, stage;
};

static int by_stage(const void *a, const void *b)
{
    const struct changed *x = a, *y = b;
    if (x->stage != y->stage)
        return x->stage < y->stage ? -1 : 1;
    return (x->sector > y->sector) - (x->sector < y->sector);
}

static int by_place(const void *a, const void *b)
{
    const struct changed *x = a, *y = b;
    return x->sector == y->sector ? by_stage(a, b) : x->sector < y->sector ? -1 : 1;
}

static struct changed *sort_changes(const struct overlay *o,
                                    int (*order)(const void *, const void *))
{
    struct changed *sorted = calloc(o->log.count + 1, sizeof *sorted);
    for (size_t i = 0; i < o->log.count && sorted; i++)
        sorted[i] = (struct changed){o->log.versions[i].sector, (uint32_t)i + 1,
                                     o->log.versions[i].stage};
    if (o->log.count && sorted)
        qsort(sorted, o->log.count, sizeof *sorted, order);
    return sorted;
}

static int cannot_load(struct img_error *err, int ret)
{
    return img_fail_errno(err, -ret, "Could not read a temporary file");
}

/* ---- telling it ---------------------------------------------------------------------------- */

struct telling {
    struct overlay *o;
    overlay_change_fn *fn;
    void *opaque;
    struct img_error *err;
    uint8_t *old, *new;
};

/* Does any version of the sector at AT, of LEN bytes at START, differ from what is there? */
static bool changes(const struct telling *t, uint64_t start, size_t at, size_t len)
{
    const uint8_t *new = t->new + at * t->o->log.most;
    if (start + at + SECTOR > t->o->old_size)
        return true;
    for (size_t k = 0; k < t->o->log.most; k++)
        if (memcmp(t->old + at, new + k *SECTOR, (size_t)min_u64(SECTOR, len - at)))
            return true;
    return false;
}

/* Those of LEN bytes of sectors at START that change. */
static int tell_run(struct telling *t, uint64_t start, size_t len)
{
    size_t end;
    int ret = file_read_padded(t->o->below, t->old, len, host(start), t->err);
    for (size_t at = 0; at < len && !ret; at = end + SECTOR) {
        for (end = at; end < len && changes(t, start, end, len);)
            end += SECTOR;
        if (end > at)
            ret = t->fn(t->opaque, host(start + at), (size_t)min_u64(end, len) - at,
                        t->new + at * t->o->log.most, t->err);
    }
    return ret;
}

/* The versions of the sector that C, of N changes, begins with, into NEW; *TAKEN: of the changes.
 */
static int load_versions(struct telling *t, const struct changed *c, size_t n, uint8_t *new,
                         size_t *taken)
{
    size_t i = 0;
    int ret = 0;
    for (*taken = 1; *taken < n && c[*taken].sector == c->sector;)
        ++*taken;
    for (unsigned k = 0; k < t->o->log.most && !ret; k++, i += i + 1 < *taken)
        ret = sector_log_load(&t->o->log, c[i].number, new + (size_t)k *SECTOR);
    return ret;
}

static int tell_all(struct telling *t, const struct changed *c, size_t n)
{
    size_t stride = (size_t)t->o->log.most * SECTOR, sectors = 0, taken;
    int ret = 0;
    for (size_t i = 0; i < n && !ret; i += taken) {
        if ((ret = load_versions(t, c + i, n - i, t->new + sectors *stride, &taken)) < 0)
            return cannot_load(t->err, ret);
        uint64_t next = c[i].sector + 1, start = (next - ++sectors) * SECTOR;
        if (i + taken < n && c[i + taken].sector == next && sectors < RUN / SECTOR)
            continue;
        ret = tell_run(t, start, (size_t)min_u64(next * SECTOR, t->o->size) - start);
        sectors = 0;
    }
    return ret;
}

unsigned overlay_versions(const struct file *overlay)
{
    return ((const struct overlay *)overlay)->log.most;
}

int overlay_each_change(struct file *overlay, overlay_change_fn *fn, void *opaque,
                        struct img_error *err)
{
    struct overlay *o = (struct overlay *)overlay;
    struct telling t = {.o = o, .fn = fn, .opaque = opaque, .err = err};
    struct changed *sorted = sort_changes(o, by_place);
    t.old = malloc(RUN);
    t.new = malloc((size_t)RUN * (o->log.most + 1));
    int ret = sorted && t.old && t.new ? tell_all(&t, sorted, o->log.count) : img_fail_nomem(err);
    free(sorted);
    free(t.old);
    free(t.new);
    return ret;
}

/* ---- doing it ------------------------------------------------------------------------------ */

struct replay {
    struct overlay *o;
    struct file *to;
    struct overlay_progress *progress;
    struct img_error *err;
    uint8_t *old, *new;
    bool any; /* in this stage */
};

/* What N changed sectors in a row have now, and what they get. */
static int load_run(struct replay *r, const struct changed *c, size_t n, size_t len)
{
    struct overlay *o = r->o;
    int ret = file_read_padded(o->below, r->old, len, host(c->sector * SECTOR), r->err);
    if (ret < 0)
        return ret;
    for (size_t i = 0; i < n && !ret; i++) {
        uint32_t before = o->log.versions[c[i].number - 1].before;
        ret = sector_log_load(&o->log, c[i].number, r->new + i *SECTOR);
        if (!ret && before)
            ret = sector_log_load(&o->log, before, r->old + i * SECTOR);
    }
    return ret < 0 ? cannot_load(r->err, ret) : 0;
}

/* Does the sector at AT of a run of LEN bytes at START differ? The file grows over each of them. */
static bool differs(const struct replay *r, const struct changed *c, uint64_t start, size_t at,
                    size_t len)
{
    bool first = !r->o->log.versions[c[at / SECTOR].number - 1].before;
    return (first && start + at + SECTOR > r->o->old_size) ||
           memcmp(r->old + at, r->new + at, (size_t)min_u64(SECTOR, len - at));
}

/* N changed sectors in a row, of which those are written that differ. */
static int replay_run(struct replay *r, const struct changed *c, size_t n)
{
    struct overlay *o = r->o;
    uint64_t start = c->sector * SECTOR;
    size_t len = (size_t)min_u64((uint64_t)n * SECTOR, o->size - start), end;
    int ret = load_run(r, c, n, len);
    for (size_t at = 0; at < len && !ret; at = end) {
        for (end = at; end < len && differs(r, c, start, end, len);)
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

int overlay_replay(struct file *overlay, struct file *to, uint32_t safe,
                   struct overlay_progress *progress, struct img_error *err)
{
    struct overlay *o = (struct overlay *)overlay;
    struct replay r = {.o = o, .to = to, .progress = progress, .err = err};
    struct changed *sorted = sort_changes(o, by_stage);
    const struct cancel *cancel = to->cancel;
    *progress = (struct overlay_progress){0};
    r.old = malloc(RUN);
    r.new = malloc(RUN);
    int ret = sorted && r.old && r.new ? 0 : img_fail_nomem(err);
    for (size_t i = 0, k; i < o->log.count && !ret; i = k) {
        for (k = i + 1; k < o->log.count && sorted[k].stage == sorted[i].stage;)
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
