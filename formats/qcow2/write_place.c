/*
 * Places for guest data.
 *
 * Data that is mapped and not shared is overwritten where it is. A cluster that has a place of its
 * own but does not show it yet (preallocated zeroes, a subcluster without data) is filled there,
 * and its entry changes. Everything else gets new clusters, as many side by side as are free.
 * With extended L2, only the subclusters that are touched count, and those that have to move along
 * because their cluster is shared.
 */
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/write.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>

enum how {
    OVERWRITE, /* the entries are right as they are */
    FILL,      /* the place is right, the entries are not */
    MOVE,      /* to new clusters */
};

/* How one cluster is written, of which the bytes [from, to) are touched. */
struct spot {
    enum how how;
    uint64_t host;     /* of the cluster, unless it moves */
    uint32_t from, to; /* what has to be filled */
};

/* The part of the disk that is looked at. */
struct stretch {
    struct qcow2 *q;
    struct entries_view view;
    uint64_t guest; /* of its first cluster */
};

static int bad_entry(const struct stretch *s, uint32_t i, uint64_t entry, const char *what,
                     struct img_error *err)
{
    return img_fail(err, EINVAL, "%s: %#" PRIx64 " (guest offset: %#" PRIx64 ")", what, entry,
                    s->guest + ((uint64_t)i << s->q->geometry.cluster_bits));
}

/* Must not be written to: nothing that leads there can be right. */
static int check_host(const struct stretch *s, uint32_t i, const struct qcow2_mapping *m,
                      struct img_error *err)
{
    struct qcow2 *q = s->q;
    uint64_t place = m->host;
    unsigned bits = q->geometry.cluster_bits;
    if (q->geometry.external_data) {
        if (place == s->guest + ((uint64_t)i << bits))
            return 0;
        return bad_entry(s, i, place,
                         "External data file host cluster offset does not match guest cluster "
                         "offset",
                         err);
    }
    if (m->type == MAP_NORMAL && !qcow2_in_file(q, place))
        return bad_entry(s, i, place, "Data cluster outside the file", err);
    if (refcounts_guarded(&q->writer->refs, place >> bits, 1)) {
        int ret = bad_entry(s, i, place, "Data cluster lies on metadata", err);
        img_hint(err, "Repair the image with 'check -r all' first.");
        return ret;
    }
    return 0;
}

/* The first and the last subcluster with data, FIRST and LAST among them. */
static void widen(uint32_t allocated, unsigned *first, unsigned *last)
{
    if (!allocated)
        return;
    unsigned low = (unsigned)__builtin_ctz(allocated),
             high = 31 - (unsigned)__builtin_clz(allocated);
    *first = low < *first ? low : *first;
    *last = high > *last ? high : *last;
}

static bool all_normal(uint32_t allocated, unsigned first, unsigned last)
{
    uint32_t touched = (uint32_t)((2ull << last) - (1ull << first));
    return (allocated & touched) == touched;
}

/* With extended L2: SPOT's range and way for a cluster that is not compressed. */
static void look_at_subclusters(const struct qcow2_geometry *g, uint64_t bitmap, bool own,
                                bool has_place, uint32_t from, uint32_t to, struct spot *spot)
{
    uint32_t allocated = (uint32_t)bitmap;
    unsigned bits = g->subcluster_bits;
    unsigned first = from >> bits, last = (to - 1) >> bits;
    spot->how = !own ? MOVE : all_normal(allocated, first, last) ? OVERWRITE : FILL;
    spot->from = from;
    spot->to = to;
    if (spot->how == OVERWRITE)
        return;
    bool keep = spot->how == FILL; /* what has data already keeps it */
    if (!keep && has_place)
        widen(allocated, &first, &last);
    if (!keep || !(allocated >> first & 1))
        spot->from = first << bits;
    if (!keep || !(allocated >> last & 1))
        spot->to = (last + 1) << bits;
}

/* How cluster I of the stretch is written. */
static int look(const struct stretch *s, uint32_t i, uint32_t from, uint32_t to, struct spot *spot,
                struct img_error *err)
{
    const struct qcow2_geometry *g = &s->q->geometry;
    *spot = (struct spot){MOVE, 0, 0, g->cluster_size};
    const uint8_t *at = s->view.at ? s->view.at + (size_t)i * g->l2_entry_size : NULL;
    uint64_t entry = at ? load_be64(at) : 0;
    uint64_t bitmap = at && g->extended_l2 ? load_be64(at + 8) : 0;
    struct qcow2_mapping m;
    const char *wrong = qcow2_decode_entry(g, entry, bitmap, 0, &m);
    if (wrong)
        return bad_entry(s, i, entry, wrong, err);
    if (m.type == MAP_COMPRESSED)
        return 0;
    bool has_place = m.type != MAP_UNALLOCATED && m.type != MAP_ZERO_PLAIN;
    bool own = has_place && s->view.private && (entry & ENTRY_COPIED);
    spot->host = m.host;
    if (own) {
        int ret = check_host(s, i, &m, err);
        if (ret < 0)
            return ret;
    }
    if (g->extended_l2) {
        look_at_subclusters(g, bitmap, own, has_place, from, to, spot);
    } else if (own && m.type == MAP_NORMAL) {
        spot->how = OVERWRITE;
        spot->from = from;
        spot->to = to;
    } else if (own) {
        spot->how = FILL;
    }
    return 0;
}

/* How many clusters from the first on, N at most, are written in one way to one place. */
static uint32_t run_of(const struct stretch *s, const struct spot *first, uint32_t n, uint32_t tail,
                       struct spot *last)
{
    uint32_t size = s->q->geometry.cluster_size, count = 1;
    *last = *first;
    for (; count < n; count++) {
        struct spot next;
        uint32_t to = count + 1 == n ? tail : size;
        if (look(s, count, 0, to, &next, NULL) < 0 || next.how != first->how)
            break; /* what is wrong with it is said when it comes first */
        if (next.how != MOVE && next.host != first->host + (uint64_t)count * size)
            break;
        *last = next;
    }
    return count;
}

/* The place for a run that moves; *COUNT may become less. Its L2 table comes first: it must not lie
 * in the middle of data that is written in a row. */
static int find_new(struct qcow2 *q, uint64_t guest, uint32_t *count, uint64_t *place, bool *blank,
                    struct img_error *err)
{
    const struct qcow2_geometry *g = &q->geometry;
    struct qcow2_writer *w = q->writer;
    uint64_t first, n;
    *blank = false;
    if (g->external_data) {
        *place = align_down(guest, g->cluster_size);
        return 0;
    }
    int ret = qcow2_own_table(q, guest, err);
    if (!ret)
        ret = refcounts_take(&w->refs, *count, &first, &n, err);
    if (ret < 0)
        return ret;
    *count = (uint32_t)n;
    *place = first << g->cluster_bits;
    *blank = *place >= w->file_end && !q->file->device;
    w->file_end = max_u64(w->file_end, *place + (n << g->cluster_bits));
    return 0;
}

static int place_stretch(const struct stretch *s, uint32_t from, uint64_t max,
                         struct placement *out, struct img_error *err)
{
    struct qcow2 *q = s->q;
    uint32_t size = q->geometry.cluster_size;
    uint32_t n = (uint32_t)min_u64(s->view.count, div_round_up(from + max, size));
    uint64_t end = min_u64((uint64_t)n * size, from + max); /* in the stretch */
    uint32_t tail = (uint32_t)(end - (uint64_t)(n - 1) * size);
    struct spot first, last;
    int ret = look(s, 0, from, n == 1 ? tail : size, &first, err);
    if (ret < 0)
        return ret;
    uint32_t count = run_of(s, &first, n, tail, &last);
    uint64_t place = first.host;
    bool blank = false;
    if (first.how == MOVE)
        ret = find_new(q, s->guest, &count, &place, &blank, err);
    if (ret < 0)
        return ret;
    if (count < n) { /* the run ends with a cluster that is written to its end */
        end = (uint64_t)count * size;
        last.to = size;
    }
    *out = (struct placement){
        .length = end - from,
        .file = q->geometry.external_data ? q->layer->data_file : q->file,
        .host = host(place + from),
        .head = from - first.from,
        .tail = (uint64_t)(count - 1) * size + last.to - end,
        .blank = blank,
        .how = first.how,
    };
    /* what surrounds data is read from the disk as it is; and bitmaps outlive a write that fails */
    out->may_be_late = !out->head && !out->tail && !q->log;
    return 0;
}

int qcow2_place(struct layer *l, guest_off off, uint64_t max, struct placement *out,
                struct img_error *err)
{
    struct qcow2 *q = l->state;
    int ret = qcow2_start_writing(q, err);
    if (!ret)
        ret = qcow2_commit_if_full(q, err);
    if (ret < 0)
        return ret;
    struct stretch s = {.q = q, .guest = align_down(off.v, q->geometry.cluster_size)};
    ret = qcow2_entries_view(q, off.v, &s.view, err);
    if (ret < 0)
        return ret;
    if (q->log)
        ret = write_log_reserve(
            q->log, off.v, min_u64(max, (uint64_t)s.view.count << q->geometry.cluster_bits), err);
    if (!ret)
        ret = place_stretch(&s, (uint32_t)(off.v - s.guest), max, out, err);
    cache_put(&q->tables, s.view.page);
    return ret;
}

/* ---- linking ------------------------------------------------------------------------------- */

/* The clusters that a placement takes, first to last. */
struct span {
    uint64_t guest, place; /* of the first cluster */
    uint32_t count;
    uint32_t from, to; /* what is filled: from FROM in the first to TO in the last */
};

static struct span span_of(const struct qcow2 *q, guest_off off, const struct placement *p)
{
    uint32_t size = q->geometry.cluster_size;
    struct span s = {.guest = align_down(off.v - p->head, size)};
    s.from = (uint32_t)(off.v - p->head - s.guest);
    s.place = p->host.v - p->head - s.from;
    uint64_t end = off.v + p->length + p->tail - s.guest;
    s.count = (uint32_t)div_round_up(end, size);
    s.to = (uint32_t)(end - (uint64_t)(s.count - 1) * size);
    return s;
}

static void note_data(struct qcow2 *q, guest_off off, const struct placement *p)
{
    if (q->log)
        write_log_note(q->log, off.v, p->length);
    if (q->geometry.external_data)
        q->writer->data_unflushed = true;
    else
        q->writer->unflushed = true;
}

void qcow2_give_up(struct layer *l, guest_off off, const struct placement *p)
{
    struct qcow2 *q = l->state;
    unsigned bits = q->geometry.cluster_bits;
    if (p->how == PLACED_COMPRESSED) {
        qcow2_give_up_compressed(q, p);
        return;
    }
    note_data(q, off, p);
    if (p->how != MOVE || q->geometry.external_data)
        return;
    uint64_t first = (p->host.v - p->head) >> bits;
    uint64_t last = (p->host.v + p->length + p->tail - 1) >> bits;
    refcounts_give_back(&q->writer->refs, first, last - first + 1);
}

/* Cluster I of the span is filled. */
static void set_entry(struct qcow2 *q, const struct span *s, uint32_t i, bool moved, uint8_t *at)
{
    const struct qcow2_geometry *g = &q->geometry;
    uint64_t entry = load_be64(at);
    if (moved)
        qcow2_note_freed(q, entry, false);
    if (g->extended_l2) {
        unsigned first = (i ? 0 : s->from) >> g->subcluster_bits;
        unsigned last = ((i + 1 < s->count ? g->cluster_size : s->to) - 1) >> g->subcluster_bits;
        uint64_t filled = (2ull << last) - (1ull << first);
        /* a compressed cluster's bitmap means nothing */
        uint64_t bitmap = entry & ENTRY_COMPRESSED ? 0 : load_be64(at + 8);
        store_be64(at + 8, (bitmap | filled) & ~(filled << 32));
    }
    store_be64(at, (s->place + ((uint64_t)i << g->cluster_bits)) | ENTRY_COPIED);
}

int qcow2_link(struct layer *l, guest_off off, const struct placement *p, struct img_error *err)
{
    struct qcow2 *q = l->state;
    if (p->how == PLACED_COMPRESSED)
        return qcow2_link_compressed(l, off, p, err);
    note_data(q, off, p);
    if (p->how == OVERWRITE)
        return 0;
    struct span s = span_of(q, off, p);
    struct entries e;
    size_t entry_size = q->geometry.l2_entry_size;
    int ret = qcow2_entries_for_change(q, off.v, &e, err);
    if (!ret)
        ret = qcow2_reserve_freed(q, s.count, err);
    for (uint32_t i = 0; !ret && p->how == MOVE && i < s.count; i++)
        ret = qcow2_check_freed(q, load_be64(e.at + i * entry_size), err);
    if (ret < 0) {
        qcow2_give_up(l, off, p);
        return ret;
    }
    for (uint32_t i = 0; i < s.count; i++)
        set_entry(q, &s, i, p->how == MOVE, e.at + i * entry_size);
    qcow2_entries_changed(q, &e, s.count);
    uint64_t end = p->host.v + p->length;
    if (!q->geometry.external_data && end > atomic_load(&q->known_size))
        atomic_store(&q->known_size, end); /* it will be there before anyone looks */
    return 0;
}
