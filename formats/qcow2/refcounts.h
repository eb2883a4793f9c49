/*
 * The refcounts of an image that is being changed: what the file has and, over that, in memory,
 * what it shall have.
 */
#ifndef QCOW2_REFCOUNTS_H
#define QCOW2_REFCOUNTS_H

#include "formats/qcow2/qcow2.h"

struct refblock {
    uint8_t *data;     /* the refcounts as they shall be, as on disk */
    uint8_t *old_used; /* a bit a cluster: it is in use in the file; NULL while nothing differs */
    uint64_t place;    /* where it will be written; 0: not known yet, or nowhere: it is empty */
    uint64_t home;     /* it goes there, if that is free; 0: anywhere */
    bool released;     /* the place that it has in the file is counted no longer */
    /* in place: what of it the file does not have yet, in bytes, from less than to */
    size_t dirty_from, dirty_to;
};

struct refcounts {
    struct qcow2 *q;
    unsigned order,
        old_order;    /* log2 of a refcount's bits, as it shall be and as the file has it */
    uint64_t entries; /* of the three arrays below */
    uint64_t *old;    /* refcount table of the file: where the blocks are, 0 where none is */
    uint64_t old_entries;
    struct refblock **blocks; /* those that have been looked at */
    uint64_t *changed;        /* indices of those that differ, in the order of their first change */
    uint64_t changed_count;
    uint64_t cursor;    /* no cluster before this one is free */
    uint64_t end;       /* behind the last cluster that was allocated here */
    uint64_t *metadata; /* sorted clusters that must not be taken, whatever their refcount says */
    size_t metadata_count;
    /* guest writes: blocks change where they are, and what is freed can be taken again */
    bool in_place;
    uint64_t unpublished;  /* blocks that no refcount table in the file names yet */
    uint64_t table_offset; /* a longer refcount table, taken and not yet the file's; 0: none */
    uint64_t table_clusters;
};

int refcounts_init(struct refcounts *r, struct qcow2 *q, struct img_error *err);
void refcounts_free(struct refcounts *r);

/* refcounts_guard.c: notes where the image's tables lie; -EINVAL when they are not counted. */
int refcounts_guard(struct refcounts *r, struct img_error *err);
/* Frees the block INDEX, if nothing of it differs from the file. */
void refcounts_forget(struct refcounts *r, uint64_t index);

int refcounts_get(struct refcounts *r, uint64_t cluster, uint64_t *value, struct img_error *err);
int refcounts_set(struct refcounts *r, uint64_t cluster, uint64_t value, struct img_error *err);

/*
 * refcounts_order.c: gives every refcount 1 << ORDER bits, before anything else was changed. FN
 * hears how far it is.
 */
typedef void (*refcounts_progress)(void *opaque, uint64_t done, uint64_t total);
int refcounts_change_order(struct refcounts *r, unsigned order, refcounts_progress fn, void *opaque,
                           struct img_error *err);

/* Adds DELTA (1 or -1) to the refcounts of COUNT clusters. */
int refcounts_add(struct refcounts *r, uint64_t first, uint64_t count, int delta,
                  struct img_error *err);

/* COUNT clusters in a row that are in use neither in the file nor in what it shall be. */
int refcounts_allocate(struct refcounts *r, uint64_t count, uint64_t *first, struct img_error *err);

/* Those from FIRST on, if they are free: *TAKEN. */
int refcounts_allocate_at(struct refcounts *r, uint64_t first, uint64_t count, bool *taken,
                          struct img_error *err);

/* Every block that differs has a place of its own, and its old one is released. */
int refcounts_place(struct refcounts *r, struct img_error *err);

/* Block INDEX shall move, even if nothing differs. */
int refcounts_move(struct refcounts *r, uint64_t index, struct img_error *err);

/* Clusters that were in use and are no longer: calls FN for each stretch of the changed blocks. */
void refcounts_each_freed(struct refcounts *r,
                          void (*fn)(void *opaque, uint64_t first, uint64_t count), void *opaque);

/* Does one of COUNT clusters hold an L2 table or a refcount block, or what the header names? */
bool refcounts_guarded(const struct refcounts *r, uint64_t first, uint64_t count);

/* How many clusters a block stands for. */
uint64_t refcounts_per_block(const struct refcounts *r);
/* Reads a block on first use; notes that the refcounts of COUNT clusters in it are to differ. */
int refcounts_load(struct refcounts *r, uint64_t index, struct refblock **out,
                   struct img_error *err);
int refcounts_change(struct refcounts *r, uint64_t index, struct refblock *b, uint64_t at,
                     uint64_t count, struct img_error *err);
int refcounts_is_free(struct refcounts *r, uint64_t cluster, bool *out, struct img_error *err);

/* The last cluster, at or before LAST, but for those at the end that are known to be free. */
uint64_t refcounts_last_kept(const struct refcounts *r, uint64_t last);

/*
 * refcounts_in_place.c: for guest writes, after ->in_place was set. All that is taken is counted in
 * memory at once; the file learns of it in steps, a flush between each and the next:
 *
 *   refcounts_store     what differs is written, into blocks where they are and into new ones. Only
 *                       increments since the last time, or only decrements.
 *   refcounts_publish   the refcount table names the new blocks (nothing, when there are none)
 */

/* The first clusters that are free, side by side: *COUNT of them, MAX at most. */
int refcounts_take(struct refcounts *r, uint64_t max, uint64_t *first, uint64_t *count,
                   struct img_error *err);
/* Takes back what was taken and never used. */
void refcounts_give_back(struct refcounts *r, uint64_t first, uint64_t count);
/* One reference less to each of COUNT clusters, which nothing on disk needs any more. */
int refcounts_drop(struct refcounts *r, uint64_t first, uint64_t count, struct img_error *err);

int refcounts_store(struct refcounts *r, struct img_error *err);
/* *OLD_CLUSTERS: how many clusters at *OLD_FIRST the refcount table has left for good; 0: none. */
int refcounts_publish(struct refcounts *r, uint64_t *old_first, uint64_t *old_clusters,
                      struct img_error *err);

#endif
