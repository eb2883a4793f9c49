/* Changing the options of an image: see struct driver. */
#ifndef QCOW2_AMEND_H
#define QCOW2_AMEND_H

#include "formats/qcow2/transaction.h"

extern const struct option_desc qcow2_amend_options[];

int qcow2_amend(struct layer *l, const struct amend_request *request, struct img_error *err);

/*
 * How far the whole job is, guessed as QEMU guesses it: the jobs that are still to come are as long
 * as those that were, on average.
 */
struct amend_progress {
    const struct progress_sink *sink;
    uint64_t unit; /* bytes that a step goes over: a table */
    unsigned jobs, finished;
    uint64_t work_finished; /* of the finished jobs */
    uint64_t work;          /* of this one */
    bool started;
};

void amend_progress_next(struct amend_progress *p);
/* OPAQUE is a struct amend_progress. */
void amend_progress_report(void *opaque, uint64_t done, uint64_t work);

/* downgrade.c: makes the transaction's image one of version 2, or says why that cannot be. */
int qcow2_downgrade(struct transaction *t, bool backed, struct amend_progress *progress,
                    struct img_error *err);

/* zero_clusters.c */
struct zero_survey {
    uint64_t *tables; /* sorted: L2 tables, of the disk and of all snapshots, with zero clusters */
    size_t count;
    bool placed;     /* some of these clusters have a place of their own */
    bool compressed; /* there are compressed clusters, anywhere */
};

int zero_clusters_survey(struct transaction *t, struct zero_survey *s, struct img_error *err);
void zero_clusters_free(struct zero_survey *s);

/*
 * Makes data clusters of all zero clusters of BACKED images, and of those of others unallocated
 * ones, which read the same there.
 */
int zero_clusters_expand(struct transaction *t, const struct zero_survey *s, bool backed,
                         struct amend_progress *progress, struct img_error *err);

/* Removes all bitmaps. */
int tx_drop_bitmaps(struct transaction *t, struct img_error *err);

#endif
