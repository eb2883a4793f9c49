/*
 * Zeroes and discards: entries that say so, and clusters that nobody needs any more.
 *
 * What an entry becomes is QEMU's rule. Zeroes keep the place of their cluster, unless the caller
 * lets it go; a discarded cluster reads as zeroes where that can be said (version 3), and as
 * nothing below version 3, which is only done where no backing file shows through.
 */
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/write.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>

#define ALL_ZERO 0xffffffff00000000ull

enum op { ZERO, ZERO_UNMAP, DISCARD };

/* An entry, and what it becomes. */
struct change {
    uint64_t entry, bitmap;
    uint64_t new_entry, new_bitmap;
    bool frees;
    bool impossible; /* a part of a compressed cluster cannot be zero */
};

static bool differs(const struct change *c)
{
    return c->entry != c->new_entry || c->bitmap != c->new_bitmap;
}

static int decode(const struct qcow2 *q, uint64_t guest, const struct change *c,
                  struct qcow2_mapping *m, struct img_error *err)
{
    const char *wrong = qcow2_decode_entry(&q->geometry, c->entry, c->bitmap, 0, m);
    if (!wrong)
        return 0;
    return img_fail(err, EINVAL, "%s: %#" PRIx64 " (guest offset: %#" PRIx64 ")", wrong, c->entry,
                    guest);
}

static void zero_cluster(const struct qcow2_geometry *g, bool has_place, bool compressed,
                         bool unmap, struct change *c)
{
    c->frees = compressed || (unmap && has_place);
    c->new_entry = c->frees ? 0 : c->entry;
    if (g->extended_l2)
        c->new_bitmap = ALL_ZERO;
    else
        c->new_entry |= ENTRY_ZERO;
}

static void discard_cluster(const struct qcow2 *q, bool allocated, struct change *c)
{
    const struct qcow2_geometry *g = &q->geometry;
    if (!q->layer->backed && !allocated)
        return;
    c->frees = allocated;
    c->new_entry = g->version >= 3 && !g->extended_l2 ? ENTRY_ZERO : 0;
    c->new_bitmap = g->extended_l2 ? ALL_ZERO : 0;
}

/* Of the cluster at AT, the subclusters [FIRST, END) are to be zero or nothing. */
static int work_out(struct qcow2 *q, uint64_t guest, const uint8_t *at, enum op op, unsigned first,
                    unsigned end, struct change *c, struct img_error *err)
{
    const struct qcow2_geometry *g = &q->geometry;
    struct qcow2_mapping m;
    *c = (struct change){.entry = at ? load_be64(at) : 0};
    if (at && g->extended_l2)
        c->bitmap = load_be64(at + 8);
    c->new_entry = c->entry;
    c->new_bitmap = c->bitmap;
    int ret = decode(q, guest, c, &m, err);
    if (ret < 0)
        return ret;
    bool compressed = m.type == MAP_COMPRESSED;
    bool has_place = !compressed && m.type != MAP_UNALLOCATED && m.type != MAP_ZERO_PLAIN;
    bool whole = !g->extended_l2 || end - first == SUBCLUSTERS;
    if (op == DISCARD) {
        discard_cluster(q, compressed || has_place, c);
    } else if (whole) {
        zero_cluster(g, has_place, compressed, op == ZERO_UNMAP, c);
    } else if (compressed) {
        c->impossible = true;
    } else {
        uint64_t range = (1ull << end) - (1ull << first);
        c->new_bitmap = (c->bitmap | range << 32) & ~range;
    }
    return 0;
}

/* ---- a piece of a table -------------------------------------------------------------------- */

struct job {
    struct qcow2 *q;
    enum op op;
    uint64_t guest; /* of the first cluster */
    uint32_t count; /* clusters */
    unsigned first; /* subcluster in the first cluster */
    unsigned end;   /* subcluster in the last cluster, behind the last to be zero */
};

static int change_of(const struct job *j, const uint8_t *entries, uint32_t i, struct change *c,
                     struct img_error *err)
{
    const struct qcow2_geometry *g = &j->q->geometry;
    const uint8_t *at = entries ? entries + (size_t)i * g->l2_entry_size : NULL;
    return work_out(j->q, j->guest + ((uint64_t)i << g->cluster_bits), at, j->op, i ? 0 : j->first,
                    i + 1 < j->count ? SUBCLUSTERS : j->end, c, err);
}

/* Looks before anything changes. Ends the job before what cannot be done; *CHANGES: is there
 * anything to do? */
static int look_ahead(struct job *j, const struct entries_view *view, bool *changes,
                      struct img_error *err)
{
    *changes = false;
    for (uint32_t i = 0; i < j->count; i++) {
        struct change c;
        int ret = change_of(j, view->at, i, &c, err);
        if (!ret && c.frees)
            ret = qcow2_check_freed(j->q, c.entry, err);
        if (ret < 0)
            return ret;
        if (c.impossible) {
            j->count = i;
            j->end = SUBCLUSTERS;
            break;
        }
        *changes = *changes || differs(&c);
    }
    return 0;
}

static int apply(const struct job *j, struct img_error *err)
{
    const struct qcow2_geometry *g = &j->q->geometry;
    struct entries e;
    int ret = qcow2_entries_for_change(j->q, j->guest, &e, err);
    if (!ret)
        ret = qcow2_reserve_freed(j->q, j->count, err);
    for (uint32_t i = 0; !ret && i < j->count; i++) {
        uint8_t *at = e.at + (size_t)i * g->l2_entry_size;
        struct change c;
        ret = change_of(j, e.at, i, &c, err);
        if (ret < 0 || !differs(&c))
            continue;
        if (c.frees)
            qcow2_note_freed(j->q, c.entry, true);
        store_be64(at, c.new_entry);
        if (g->extended_l2)
            store_be64(at + 8, c.new_bitmap);
    }
    if (!ret)
        qcow2_entries_changed(j->q, &e, j->count);
    return ret;
}

/* Guest data of its own must read as the entries say (raw external data), or need not be kept. */
static int zero_data_file(struct job *j, guest_off off, uint64_t len, bool changes,
                          struct img_error *err)
{
    struct qcow2 *q = j->q;
    struct file *f = q->layer->data_file;
    bool raw = q->header.autoclear & AUTOCLEAR_DATA_FILE_RAW;
    if (!q->geometry.external_data || (!raw && (j->op == ZERO || !changes)))
        return 0;
    q->writer->data_unflushed = true;
    return (j->op == ZERO ? file_zero_keep : file_zero)(f, host(off.v), len, err);
}

/* The most of [OFF, OFF + LEN) that lies in one piece of a table. */
static int do_job(struct layer *l, enum op op, guest_off off, uint64_t len, uint64_t *done,
                  struct img_error *err)
{
    struct qcow2 *q = l->state;
    const struct qcow2_geometry *g = &q->geometry;
    struct entries_view view;
    bool changes;
    *done = 0;
    int ret = qcow2_start_writing(q, err);
    if (!ret)
        ret = qcow2_commit_if_full(q, err);
    if (!ret)
        ret = qcow2_entries_view(q, off.v, &view, err);
    if (ret < 0)
        return ret;
    struct job j = {.q = q, .op = op, .guest = align_down(off.v, g->cluster_size)};
    uint64_t end = off.v + len - j.guest; /* what lies behind the disk is zero with it */
    end = off.v + len == l->size ? align_up(end, g->cluster_size) : end;
    j.count = (uint32_t)min_u64(view.count, div_round_up(end, g->cluster_size));
    end = min_u64(end, (uint64_t)j.count << g->cluster_bits);
    uint64_t in_last = end - ((uint64_t)(j.count - 1) << g->cluster_bits);
    if (g->extended_l2)
        j.first = (unsigned)((off.v - j.guest) >> g->subcluster_bits);
    j.end = g->extended_l2 ? (unsigned)(in_last >> g->subcluster_bits) : SUBCLUSTERS;
    uint32_t wanted = j.count;
    ret = look_ahead(&j, &view, &changes, err);
    cache_put(&q->tables, view.page);
    if (ret < 0 || !j.count)
        return ret;
    if (j.count < wanted)
        end = (uint64_t)j.count << g->cluster_bits;
    len = min_u64(len, j.guest + end - off.v);
    if (q->log)
        ret = write_log_reserve(q->log, off.v, len, err);
    if (!ret)
        ret = zero_data_file(&j, off, len, changes, err);
    if (!ret && changes)
        ret = apply(&j, err);
    if (ret < 0)
        return ret;
    if (q->log)
        write_log_note(q->log, off.v, len);
    *done = len;
    return 0;
}

uint64_t qcow2_zero_unit(const struct layer *l)
{
    const struct qcow2 *q = l->state;
    return 1ull << q->geometry.subcluster_bits;
}

int qcow2_zero(struct layer *l, guest_off off, uint64_t len, unsigned flags, uint64_t *done,
               struct img_error *err)
{
    const struct qcow2 *q = l->state;
    *done = 0;
    if (q->geometry.version < 3) /* there is no entry for zeroes, but there is one for nothing */
        return l->backed ? 0 : do_job(l, DISCARD, off, len, done, err);
    return do_job(l, flags & IMG_ZERO_UNMAP ? ZERO_UNMAP : ZERO, off, len, done, err);
}

int qcow2_discard(struct layer *l, guest_off off, uint64_t len, uint64_t *done,
                  struct img_error *err)
{
    const struct qcow2 *q = l->state;
    *done = len;
    if (q->geometry.version < 3 && l->backed) /* old data would show */
        return 0;
    return do_job(l, DISCARD, off, len, done, err);
}
