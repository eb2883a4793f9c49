/* A piece of two disks that has to be looked at. */
#ifndef LIB_OPS_COMPARE_H
#define LIB_OPS_COMPARE_H

#include "lib/ops/copy_source.h"

enum { MAX_SPANS = 32 };

/* A range in which each disk is stored in one way. */
struct span {
    uint64_t start, length;
    struct copy_part parts[2];
};

/* Where bytes differ. */
struct run {
    uint64_t start, length;
};

struct piece {
    uint64_t number;
    uint64_t start, end; /* what the comparison has come through with this piece */
    struct span spans[MAX_SPANS];
    size_t count;
    uint64_t bytes; /* of the spans */
    enum img_difference_kind kind;
    uint64_t status_at, status_length; /* of IMG_DIFFERENCE_STATUS, behind all spans */
    /* found: */
    struct run *runs;
    size_t run_count, run_room;
    uint64_t read;
    /* kept from piece to piece: */
    uint8_t *buffers[2];
    size_t buffer_size;
};

void piece_reset(struct piece *p, uint64_t number, uint64_t start);
/* For workers_job.clear. */
void piece_clear(void *opaque, void *slot);

/* Finds the runs of P, the FIRST_ONLY or all. A failure is that of *IMAGE at *OFFSET. */
int piece_look(struct piece *p, bool first_only, unsigned *image, uint64_t *offset,
               struct img_error *err);

#endif
