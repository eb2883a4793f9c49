/* Where everything lies in a new qcow2 file. Pure numbers: no I/O. */
#ifndef QCOW2_LAYOUT_H
#define QCOW2_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * In this order, without gaps, each part a whole number of clusters: header, refcount table,
 * refcount blocks, L1 table, L2 tables, data.
 */
struct qcow2_layout {
    /* given */
    uint64_t size;
    unsigned cluster_bits;
    unsigned refcount_order;
    bool extended_l2;
    bool external_data; /* the data lies in another file, at the guest's offsets */
    bool mapped;        /* every guest cluster has its place: metadata is preallocated */
    bool counted; /* else: l2_tables and data_clusters are given, at most so many are needed */

    /* computed; offsets in bytes */
    uint64_t reftable_offset, reftable_clusters;
    uint64_t refblocks_offset, refblocks;
    uint64_t l1_offset, l1_entries; /* offset 0 without entries */
    uint64_t l2_offset, l2_tables;
    uint64_t data_offset, data_clusters; /* guest clusters that have a place, wherever that is */
    uint64_t clusters;                   /* of the file; each has the refcount 1 */
    uint64_t end;                        /* length of the file */
    uint64_t metadata;                   /* of these, bytes that are not data */
};

/* False: no qcow2 file can hold a disk of this size with these clusters. */
bool qcow2_layout_compute(struct qcow2_layout *l);

/* The same, where it only matters how much it would be: the file may be more than can be counted in
 * refcounts. False: the size is none that a disk can have. */
bool qcow2_layout_count(struct qcow2_layout *l);
/* Can an L1 table lead to all of the disk? */
bool qcow2_layout_l1_fits(const struct qcow2_layout *l);

/* A part of a table: the bytes [OFFSET, OFFSET + LENGTH) of all tables of its kind, one after
 * another. */
void qcow2_layout_reftable(const struct qcow2_layout *l, uint8_t *buf, uint64_t offset,
                           size_t length);
void qcow2_layout_refblocks(const struct qcow2_layout *l, uint8_t *buf, uint64_t offset,
                            size_t length);
void qcow2_layout_l1(const struct qcow2_layout *l, uint8_t *buf, uint64_t offset, size_t length);
void qcow2_layout_l2(const struct qcow2_layout *l, uint8_t *buf, uint64_t offset, size_t length);

#endif
