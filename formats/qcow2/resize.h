/* What the files that change a disk's size share. */
#ifndef QCOW2_RESIZE_H
#define QCOW2_RESIZE_H

#include "formats/qcow2/rewrite.h"

struct resize_job {
    struct qcow2 *q;
    const struct resize_request *r;
    struct transaction t;
    uint64_t old_size, new_size;
    enum preallocation mode;
    bool covers;          /* the backing file has something where the disk ended */
    bool raw_data;        /* the data file is a raw disk by itself */
    bool exact_data_file; /* it gets the disk's length in the end, though it may be longer */
    uint64_t data_length; /* of the data file when it began */
    bool data_touched;    /* what was written there has to be flushed; it may be longer now */
    bool moved;           /* tables have new places */
    uint8_t *l1;          /* the active L1 table as it shall be */
    uint32_t l1_size, l1_room;
};

/* Calls FN for the L2 table of an L1 entry; an empty one where none was, which stays if changed. */
int resize_edit_l2(struct resize_job *j, uint64_t l1_index, l2_fn fn, void *opaque,
                   struct img_error *err);

/* resize_fill.c: what lies between the old end and the new one reads as zeroes and is preallocated
 * as wanted; nothing is mapped there behind the last cluster. */
int resize_fill(struct resize_job *j, struct img_error *err);

/*
 * bitmap_resize.c: all bitmaps get the tables that a disk of NEW_SIZE needs; what lies behind the
 * smaller of both sizes is clean. Tables that begin at or behind the offset MOVE get a new place in
 * any case.
 */
int tx_resize_bitmaps(struct transaction *t, uint64_t old_size, uint64_t new_size, uint64_t move,
                      struct img_error *err);

/* Calls FN for all that bitmaps take in the file; an offset of 0 is nothing. */
typedef int (*range_fn)(void *opaque, uint64_t offset, uint64_t length, struct img_error *err);
int qcow2_each_bitmap_range(struct qcow2 *q, range_fn fn, void *opaque, struct img_error *err);

/* compact.c: moves metadata from the end of the file into gaps before it, and shortens the file.
 * When it fails, the image is what it was, but for its length. */
void qcow2_compact(struct qcow2 *q);

int qcow2_resize(struct layer *l, const struct resize_request *r, struct img_error *err);

#endif
