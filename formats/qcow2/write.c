/* The life of a writer: what has to be true of the file before the first guest write, and after. */
#include "formats/qcow2/write.h"
#include "formats/qcow2/header_write.h"
#include "formats/qcow2/ondisk.h"
#include "lib/checked.h"

#include <errno.h>
#include <stdlib.h>

/* What follows from the disk's contents in ways that are not known here is no longer true. */
static int clear_unknown_autoclear(struct qcow2 *q, struct img_error *err)
{
    struct qcow2_header h = q->header;
    h.autoclear &= AUTOCLEAR_BITMAPS | AUTOCLEAR_DATA_FILE_RAW;
    if (h.version < 3 || h.autoclear == q->header.autoclear)
        return 0;
    int ret = qcow2_write_header(q, &h, NULL, NULL, err);
    if (!ret)
        q->header.autoclear = h.autoclear;
    return ret;
}

static void free_writer(struct qcow2 *q)
{
    struct qcow2_writer *w = q->writer;
    if (!w)
        return;
    qcow2_forget_pieces(q);
    refcounts_free(&w->refs);
    free(w->pieces);
    free(w->l1_dirty);
    free(w->freed);
    free(w);
    q->writer = NULL;
}

int qcow2_start_writing(struct qcow2 *q, struct img_error *err)
{
    if (q->writer)
        return 0;
    struct qcow2_writer *w = calloc(1, sizeof *w);
    if (!w)
        return img_fail_nomem(err);
    q->writer = w;
    int ret = file_size(q->file, &w->file_end, err);
    if (!ret)
        ret = refcounts_init(&w->refs, q, err);
    w->refs.in_place = true;
    if (!ret)
        ret = clear_unknown_autoclear(q, err);
    if (!ret)
        ret = qcow2_open_bitmaps(q, err);
    if (ret < 0)
        free_writer(q);
    return ret;
}

int qcow2_flush(struct layer *l, struct img_error *err)
{
    struct qcow2 *q = l->state;
    return q->writer ? qcow2_commit(q, err) : 0;
}

int qcow2_settle(struct qcow2 *q, struct img_error *err)
{
    int ret = q->writer ? qcow2_commit(q, err) : 0;
    if (ret < 0)
        return ret;
    free_writer(q);
    return qcow2_store_bitmaps(q, err);
}

int qcow2_settle_layer(struct layer *l, struct img_error *err)
{
    return qcow2_settle(l->state, err);
}

void qcow2_stop_writing(struct qcow2 *q)
{
    if (!q->writer || !q->writer->broken)
        qcow2_settle(q, NULL);
    free_writer(q);
    qcow2_forget_log(q);
}
