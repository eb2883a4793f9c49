/* Changing mapping tables within a transaction: all L2 tables below an L1 table in memory. */
#ifndef QCOW2_REWRITE_H
#define QCOW2_REWRITE_H

#include "formats/qcow2/transaction.h"

/* Reads an L1 table, the active one's or a snapshot's; *L1 is for free(). */
int tx_load_l1(struct transaction *t, uint64_t offset, uint32_t size, uint8_t **l1,
               struct img_error *err);

/* One L2 table in memory: to be looked at and changed. */
struct l2_view {
    uint64_t l1_index;
    uint8_t *table;   /* as on disk, a cluster long */
    uint32_t entries; /* of geometry.l2_entry_size bytes each */
    bool changed;     /* set by who changes it */
};

/*
 * Calls FN for every L2 table that L1 names. One that FN changes gets a new place and the refcount
 * 1; L1, in memory, names it then with the COPIED flag, and the old one has a reference less.
 */
typedef int (*l2_fn)(void *opaque, struct transaction *t, struct l2_view *v, struct img_error *err);
int tx_each_l2(struct transaction *t, uint8_t *l1, uint32_t l1_size, l2_fn fn, void *opaque,
               struct img_error *err);

/*
 * What entry INDEX of a table uses in the file, decoded: *LENGTH bytes at *OFFSET whose clusters
 * are counted; 0: nothing.
 */
int l2_view_used(const struct transaction *t, const struct l2_view *v, uint32_t index,
                 uint64_t *offset, uint64_t *length, struct img_error *err);

/* One reference more (DELTA 1) or less (-1) to all L2 tables that L1 names and all that they use.
 */
int tx_count_all(struct transaction *t, uint8_t *l1, uint32_t l1_size, int delta,
                 struct img_error *err);

/* Sets the COPIED flags of the active disk's tables by the refcounts as they shall be; in L1, too.
 */
int tx_fix_copied(struct transaction *t, uint8_t *l1, uint32_t l1_size, struct img_error *err);

/*
 * One reference more to all of it, for a second L1 table with the same entries. Nothing has the
 * COPIED flag then: L2 tables that said otherwise get new places, which both tables have to name.
 */
int tx_share_all(struct transaction *t, uint8_t *l1, uint32_t l1_size, struct img_error *err);

/* Writes an L1 table of SIZE entries to a new place. */
int tx_write_l1(struct transaction *t, const uint8_t *l1, uint32_t size, uint64_t *offset,
                struct img_error *err);

/* Makes it the active one, in the place of the one that the header names. */
int tx_replace_l1(struct transaction *t, const uint8_t *l1, uint32_t size, struct img_error *err);

#endif
