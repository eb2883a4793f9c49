/*
 * How often each host cluster is referenced, counted: the array of a check.
 *
 * A byte a cluster, in chunks that exist where something was counted, so that a file of a few
 * kilobytes that claims to be long costs nothing. A chunk in which a count outgrows a byte is
 * widened to two bytes a cluster, then to eight.
 */
#ifndef QCOW2_CHECK_REFS_H
#define QCOW2_CHECK_REFS_H

#include "lib/error.h"

#include <stddef.h>
#include <stdint.h>

enum { REFS_CHUNK = 1024 }; /* clusters */

/* Instead of a count, once counts and refcounts have been compared. */
#define REFS_OTHER   UINT64_MAX       /* the refcount is neither 0 nor 1, nor what was counted */
#define REFS_UNKNOWN (UINT64_MAX - 1) /* the refcount cannot be read */
#define REFS_MAX     (UINT64_MAX - 2) /* the largest count */

struct refs_chunk;

struct refs {
    uint64_t clusters;
    uint64_t max; /* counts stop here */
    struct refs_chunk **chunks;
    /* Called where counting stopped: LOST references of CLUSTER were not counted. May be NULL. */
    void (*overflow)(void *opaque, uint64_t cluster, uint64_t lost);
    void *opaque;
};

int refs_init(struct refs *r, uint64_t clusters, uint64_t max, struct img_error *err);
void refs_free(struct refs *r);

/* Counts TIMES more references to each of the COUNT clusters from FIRST on. */
int refs_add(struct refs *r, uint64_t first, uint64_t count, uint64_t times, struct img_error *err);

/* Makes room for clusters up to CLUSTERS. */
int refs_grow(struct refs *r, uint64_t clusters, struct img_error *err);

/* TIMES references less to CLUSTER, down to none. */
void refs_drop(struct refs *r, uint64_t cluster, uint64_t times);

uint64_t refs_get(const struct refs *r, uint64_t cluster);

/* VALUE is 0, 1, REFS_OTHER or REFS_UNKNOWN; the cluster has been counted before. */
void refs_set(struct refs *r, uint64_t cluster, uint64_t value);

/* Was nothing counted in the chunk of CLUSTER? */
bool refs_empty(const struct refs *r, uint64_t cluster);

/* The counts from CLUSTER to the end of its chunk, when they have one byte each; else NULL. */
const uint8_t *refs_bytes(const struct refs *r, uint64_t cluster);

#endif
