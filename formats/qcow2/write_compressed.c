/*
 * Compressed clusters among guest writes.
 *
 * Streams are packed one behind the other, as QEMU does, so that a host cluster has a reference for
 * each stream that touches it. The next one goes on where the last one ended as long as that
 * cluster's refcount has room, and into the next cluster where that is the free one behind it.
 */
#include "formats/qcow2/build.h"
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/refword.h"
#include "formats/qcow2/write.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>

static uint64_t cluster_of(const struct qcow2 *q, uint64_t offset)
{
    return offset >> q->geometry.cluster_bits;
}

/* Bytes of the last stream's cluster that another one can have. */
static int room_left(struct qcow2 *q, uint64_t *room, struct img_error *err)
{
    struct qcow2_writer *w = q->writer;
    uint64_t refcount;
    *room = 0;
    if (!w->packed)
        return 0;
    int ret = refcounts_get(&w->refs, cluster_of(q, w->packed), &refcount, err);
    if (!ret && refcount && refcount < refword_max(w->refs.order))
        *room = q->geometry.cluster_size - (w->packed & (q->geometry.cluster_size - 1));
    return ret;
}

/* A place for a stream, whose clusters have a reference more then. */
static int find_place(struct qcow2 *q, size_t stored, uint64_t *place, struct img_error *err)
{
    struct qcow2_writer *w = q->writer;
    uint64_t room, first, count, last = cluster_of(q, w->packed);
    int ret = room_left(q, &room, err);
    if (ret < 0)
        return ret;
    *place = w->packed;
    if (stored <= room)
        return refcounts_add(&w->refs, last, 1, 1, err);
    ret = refcounts_take(&w->refs, 1, &first, &count, err);
    if (ret < 0)
        return ret;
    w->file_end = max_u64(w->file_end, (first + 1) << q->geometry.cluster_bits);
    if (room && first == last + 1) {
        ret = refcounts_add(&w->refs, last, 1, 1, err);
        if (ret < 0)
            refcounts_give_back(&w->refs, first, 1);
    } else {
        *place = first << q->geometry.cluster_bits;
    }
    return ret;
}

int qcow2_place_compressed(struct layer *l, guest_off off, size_t stored, struct placement *out,
                           struct img_error *err)
{
    struct qcow2 *q = l->state;
    uint32_t cluster = q->geometry.cluster_size;
    uint64_t place = 0;
    if (q->geometry.external_data)
        return img_fail(err, ENOTSUP, "An external data file holds no compressed clusters");
    int ret = qcow2_start_writing(q, err);
    if (!ret)
        ret = qcow2_commit_if_full(q, err);
    if (!ret && q->log)
        ret = write_log_reserve(q->log, off.v, min_u64(cluster, l->size - off.v), err);
    if (!ret)
        ret = find_place(q, stored, &place, err);
    if (ret < 0)
        return ret;
    uint64_t end = place + stored;
    q->writer->packed = is_aligned(end, cluster) ? 0 : end;
    *out = (struct placement){
        .length = stored, .file = q->file, .host = host(place), .how = PLACED_COMPRESSED};
    return 0;
}

void qcow2_give_up_compressed(struct qcow2 *q, const struct placement *p)
{
    uint64_t first = cluster_of(q, p->host.v), last = cluster_of(q, p->host.v + p->length - 1);
    q->writer->unflushed = true;
    q->writer->packed = 0; /* its cluster may be nobody's now */
    refcounts_give_back(&q->writer->refs, first, last - first + 1);
}

static uint64_t descriptor(const struct qcow2 *q, const struct placement *p)
{
    unsigned shift = 62 - (q->geometry.cluster_bits - 8);
    uint64_t sectors = (p->host.v % 512 + p->length - 1) / 512;
    return ENTRY_COMPRESSED | sectors << shift | p->host.v;
}

int qcow2_link_compressed(struct layer *l, guest_off off, const struct placement *p,
                          struct img_error *err)
{
    struct qcow2 *q = l->state;
    struct entries e;
    int ret = qcow2_entries_for_change(q, off.v, &e, err);
    if (!ret)
        ret = qcow2_reserve_freed(q, 1, err);
    if (!ret)
        ret = qcow2_check_freed(q, load_be64(e.at), err);
    if (ret < 0) {
        qcow2_give_up_compressed(q, p);
        return ret;
    }
    qcow2_note_freed(q, load_be64(e.at), false);
    store_be64(e.at, descriptor(q, p));
    if (q->geometry.extended_l2)
        store_be64(e.at + 8, 0);
    qcow2_entries_changed(q, &e, 1);
    q->writer->unflushed = true;
    if (q->log)
        write_log_note(q->log, off.v, min_u64(q->geometry.cluster_size, l->size - off.v));
    uint64_t end = p->host.v + p->length;
    if (end > atomic_load(&q->known_size)) /* it will be there before anyone looks */
        atomic_store(&q->known_size, end);
    return 0;
}

int qcow2_layer_compressor(void **compressor, const struct layer *l, struct img_error *err)
{
    const struct qcow2 *q = l->state;
    return qcow2_compressor_create(compressor, &q->header, 0, err);
}
