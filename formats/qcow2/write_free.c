/* What guest writes leave behind: noted until the file no longer names it. */
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/write.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

int qcow2_reserve_freed(struct qcow2 *q, size_t count, struct img_error *err)
{
    struct qcow2_writer *w = q->writer;
    if (w->freed_capacity - w->freed_count >= count)
        return 0;
    size_t capacity = w->freed_capacity * 2 + count + 64;
    struct freed *list = realloc(w->freed, capacity * sizeof *list);
    if (!list)
        return img_fail_nomem(err);
    w->freed = list;
    w->freed_capacity = capacity;
    return 0;
}

/* The clusters of the image file that ENTRY, which was decoded without complaint, uses. */
static uint64_t clusters_of(const struct qcow2 *q, uint64_t entry, uint64_t *first)
{
    const struct qcow2_geometry *g = &q->geometry;
    struct qcow2_mapping m;
    if (entry & ENTRY_COMPRESSED) {
        qcow2_decode_entry(g, entry, 0, 0, &m);
        *first = m.host >> g->cluster_bits;
        return ((m.host + m.host_length - 1) >> g->cluster_bits) - *first + 1;
    }
    *first = (entry & L2_OFFSET_MASK) >> g->cluster_bits;
    return !g->external_data && *first;
}

int qcow2_check_freed(struct qcow2 *q, uint64_t entry, struct img_error *err)
{
    uint64_t first, count = clusters_of(q, entry, &first);
    for (uint64_t i = first; i < first + count; i++) {
        uint64_t refcount;
        int ret = refcounts_get(&q->writer->refs, i, &refcount, err);
        if (!ret && !refcount) {
            ret = img_fail(err, EINVAL,
                           "The cluster at offset %#" PRIx64 " is in use, but its refcount is 0",
                           i << q->geometry.cluster_bits);
            img_hint(err, "Repair the image with 'check -r all' first.");
        }
        if (ret < 0)
            return ret;
    }
    return 0;
}

void qcow2_note_freed_clusters(struct qcow2 *q, uint64_t first, uint64_t count, bool punch)
{
    struct qcow2_writer *w = q->writer;
    struct freed *last = w->freed_count ? &w->freed[w->freed_count - 1] : NULL;
    if (last && last->first + last->count == first && last->punch == punch)
        last->count += count;
    else
        w->freed[w->freed_count++] = (struct freed){first, count, punch};
}

void qcow2_note_freed(struct qcow2 *q, uint64_t entry, bool punch)
{
    uint64_t first, count = clusters_of(q, entry, &first);
    if (count)
        qcow2_note_freed_clusters(q, first, count, punch);
}
