/* The snapshot table as it shall be. */
#ifndef QCOW2_SNAPSHOT_TABLE_H
#define QCOW2_SNAPSHOT_TABLE_H

#include "formats/qcow2/transaction.h"

/* Bytes of an entry, without the padding between two. */
uint64_t snapshot_entry_size(const struct qcow2_snapshot *s);

/*
 * Fills ENTRY but for the extra data that nobody knows here, which is zeroes. Extra data is as long
 * as it was, and at least what is known of it.
 */
void snapshot_encode(uint8_t *entry, const struct qcow2_snapshot *s);

/* The ID of the next snapshot: one more than the largest number among those there are. */
void snapshot_next_id(const struct qcow2 *q, char id[24]);

/*
 * Makes these COUNT snapshots the image's, in a new table; those of the old one (place is not 0)
 * keep all their extra data.
 */
int tx_set_snapshots(struct transaction *t, const struct qcow2_snapshot *list, size_t count,
                     struct img_error *err);

/* The same for those that there are. L1: where each one's L1 table is now; NULL: where it was. */
int tx_replace_snapshots(struct transaction *t, const uint64_t *l1, struct img_error *err);

#endif
