/*
 * A change of metadata that happens as a whole.
 *
 * Nothing that the image uses is overwritten. What changes gets a new place in clusters that are
 * free in the old state: the tables that a caller writes, every refcount block with a refcount that
 * differs, the refcount table that names these blocks. Then, after a flush, one write of the file's
 * first sector leads to all of it at once: size, L1 table, refcount table, snapshot table and
 * bitmap directory stand side by side there. Before that write the file is the old image, after it
 * the new one; neither has a leak, since the refcounts change places together with what they count.
 * Only then are the clusters that the old state had to itself given back to the host.
 *
 *   tx_begin; tx_allocate, tx_reference, tx_release, tx_write in any order; fields of ->header and
 *   ->parts set to what they shall be; tx_commit; tx_end in any case
 *
 * A cluster that is released is not allocated again within the same transaction: the old state
 * needs it until the commit. Memory: the refcount blocks that were touched, so two bytes for each
 * cluster of the file at most where refcounts have the usual 16 bits.
 */
#ifndef QCOW2_TRANSACTION_H
#define QCOW2_TRANSACTION_H

#include "formats/qcow2/encode.h"
#include "formats/qcow2/refcounts.h"

/* A table that has another place, and where it was. */
struct moved_table {
    uint64_t home, place;
};

struct transaction {
    struct qcow2 *q;
    struct refcounts refs;
    struct qcow2_header header;      /* what the file's header shall say */
    struct qcow2_header_parts parts; /* names and extensions; they count when parts_changed */
    uint8_t *head;                   /* what PARTS carries over from the old header */
    bool parts_changed;
    uint64_t file_size;                   /* when it began */
    const struct progress_sink *progress; /* told of each L2 table of a snapshot; may be NULL */
    uint64_t tables, tables_done;
    bool written;    /* something was, that has to be flushed */
    bool committing; /* the header may have been written */
    /* for tx_go_home: the L2 tables that moved, the L1 table and the refcount table */
    struct moved_table *moved, moved_l1, moved_reftable;
    size_t moved_count;
    uint64_t reftable_home; /* the refcount table goes there, if that is free; 0: anywhere */
};

/* The file must have been opened to be written. What the guest wrote comes to disk first. */
int tx_begin(struct transaction *t, struct qcow2 *q, struct img_error *err);

/* COUNT clusters side by side, each with the refcount 1. What they hold is undefined. */
int tx_allocate(struct transaction *t, uint64_t count, uint64_t *offset, struct img_error *err);

/* The same behind all that the file has, and behind its end: what is not written there reads as
 * zeroes, once the file is as long. */
int tx_allocate_at_end(struct transaction *t, uint64_t count, uint64_t *offset,
                       struct img_error *err);

/* One reference more, or less, to every cluster that the range touches. */
int tx_reference(struct transaction *t, uint64_t offset, uint64_t length, struct img_error *err);
int tx_release(struct transaction *t, uint64_t offset, uint64_t length, struct img_error *err);

/* The refcount that the cluster at OFFSET will have. */
int tx_refcount(struct transaction *t, uint64_t offset, uint64_t *refcount, struct img_error *err);

/* Into clusters that this transaction has allocated, and nowhere else. */
int tx_write(struct transaction *t, uint64_t offset, const void *buf, size_t len,
             struct img_error *err);

/*
 * Makes it so, and reads the image's metadata again. When it fails before the header is written,
 * the image is as it was.
 */
int tx_commit(struct transaction *t, struct img_error *err);

/*
 * home.c: after the commit, a second transaction that brings tables back to where they were, while
 * they are few: those that were before the offset BELOW. When that cannot be done, the image is
 * what the first one made of it.
 */
void tx_go_home(const struct transaction *t, uint64_t below);

/* The active disk's L2 table at HOME is at PLACE now. */
int tx_note_moved(struct transaction *t, uint64_t home, uint64_t place, struct img_error *err);

/* Forgets a transaction that was not committed; the file has its old length again. */
void tx_end(struct transaction *t);

#endif
