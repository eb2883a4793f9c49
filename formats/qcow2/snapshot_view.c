/* What the header would say were a snapshot the disk. */
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/qcow2.h"
#include "lib/bytes.h"

#include <string.h>

/*
 * Bitmaps are of the disk as it is now; the snapshots are left out so that nobody looks for them.
 * Refcounts stay those of the file: who only reads does not ask for them.
 */
int qcow2_snapshot_head(struct layer *l, uint8_t head[SNAPSHOT_HEAD], struct img_error *err)
{
    struct qcow2 *q = l->state;
    struct ondisk_header *h = (struct ondisk_header *)head;
    int ret = file_read(q->file, head, SNAPSHOT_HEAD, host(0), err);
    if (ret < 0)
        return ret;
    store_be64(h->size, l->size);
    store_be32(h->l1_size, q->l1_size);
    store_be64(h->l1_table_offset, q->l1_offset);
    store_be32(h->nb_snapshots, 0);
    store_be64(h->snapshots_offset, 0);
    if (q->header.version >= 3)
        store_be64(h->autoclear_features, q->header.autoclear & ~(uint64_t)AUTOCLEAR_BITMAPS);
    return 0;
}
