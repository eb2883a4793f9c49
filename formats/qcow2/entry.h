/* An L2 entry, decoded once into a tagged mapping. Pure: no I/O, no state. */
#ifndef QCOW2_ENTRY_H
#define QCOW2_ENTRY_H

#include <stdbool.h>
#include <stdint.h>

/* The numbers that follow from the header. */
struct qcow2_geometry {
    unsigned version;
    unsigned cluster_bits;
    uint32_t cluster_size;
    unsigned l2_bits;         /* log2 of the entries of an L2 table */
    unsigned l2_entry_size;   /* 8, or 16 with extended L2 */
    unsigned subcluster_bits; /* equal to cluster_bits without extended L2 */
    bool extended_l2;
    bool external_data;
};

enum qcow2_mapping_type {
    MAP_UNALLOCATED,       /* look in the backing file */
    MAP_UNALLOCATED_ALLOC, /* the same, though the cluster has a place (extended L2) */
    MAP_ZERO_PLAIN,
    MAP_ZERO_ALLOC, /* reads as zeroes and has a place */
    MAP_NORMAL,
    MAP_COMPRESSED,
};

struct qcow2_mapping {
    enum qcow2_mapping_type type;
    uint64_t host;        /* of the cluster; for COMPRESSED, of the first byte */
    uint32_t host_length; /* COMPRESSED: stored bytes, up to the end of the last sector */
    unsigned subclusters; /* how many from the one asked for are alike; 1 without extended L2 */
};

/*
 * Decodes ENTRY (and BITMAP, with extended L2) for subcluster SUB of the cluster. Returns NULL, or
 * what is wrong with it: a phrase for a message that says where it was found.
 */
const char *qcow2_decode_entry(const struct qcow2_geometry *g, uint64_t entry, uint64_t bitmap,
                               unsigned sub, struct qcow2_mapping *out);

#endif
