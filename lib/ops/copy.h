/*
 * The copy engine: a disk, piece by piece, on several threads.
 *
 * The source's map is walked in order (take). A piece is at most COPY_PIECE bytes of data, read,
 * looked through for zeroes and compressed by several threads at once (work), or a stretch of any
 * length that holds none. What a piece came to are runs; in the order of the disk they are given
 * their places (settle), and then written (finish). So the target is the same whatever the number
 * of threads is.
 *
 * Memory: a piece for each thread, one more each where it is compressed or was, and a compressor.
 * There are only as many threads as have COPY_MEMORY for that, but always one.
 */
#ifndef LIB_OPS_COPY_H
#define LIB_OPS_COPY_H

#include "lib/ops/copy_source.h"

#include <pthread.h>

enum { COPY_PIECE = 1 << 20, COPY_MEMORY = 40 << 20 };

enum copy_run_kind {
    RUN_DATA,
    RUN_ZERO,
    RUN_COMPRESSED,
    RUN_SHARED,
};

struct copy_run {
    enum copy_run_kind kind;
    uint64_t offset, length; /* of the disk; the last unit may reach past its end */
    const uint8_t *data;     /* DATA, COMPRESSED */
    size_t stored;           /* bytes at DATA */
    struct build_place place;
    struct file *from; /* SHARED */
    host_off from_host;
};

struct copy_piece;

/* Where a copy goes. */
struct copy_target {
    uint64_t size; /* of what is copied: nothing behind it is written in an image that exists */
    uint64_t unit; /* runs are whole units */
    bool zero_is_nothing; /* what is not written reads as zeroes */
    bool says_zero;       /* a run can be said to be zero; else zeroes are written */
    const struct driver_building *building;
    void *builder;
    struct file *stream; /* the builder's, where it is a pipe: runs are written in order */
    struct img *img;     /* or: an image that exists */
    struct {
        bool started;
        pthread_mutex_t lock; /* guards the next three */
        pthread_cond_t written;
        unsigned pieces; /* that are settled, and of which something is still to be written */
        int failed;      /* to write one */
        struct copy_piece *settling; /* the one whose turn it is */
    } late;
    struct img *below; /* what parts of units that are absent are read from; NULL: they are zero */
    uint64_t below_size; /* zeroes behind it need not be said; UINT64_MAX: all must be */
};

/* copy_late.c: for an image that exists, from when it is open until it is closed. */
void copy_late_start(struct copy_target *target);
void copy_late_end(struct copy_target *target);

struct copy_log;

struct copy_job {
    struct copy_source *source;
    struct copy_target *target;
    uint64_t sparse; /* this many zeroes in a row are not written as data; 0: all are */
    bool share;      /* what can be is shared with the source's files */
    bool as_mapped;  /* zeroes are those of the map alone */
    bool in_order;   /* the source can only be read from front to end */
    bool compress;
    int level;
    unsigned threads; /* as many as are wanted */
    uint64_t rate;    /* bytes a second; 0: as fast as it goes */
    bool salvage;
    const struct cancel *cancel;
    void (*warn)(void *opaque, const char *message);
    struct progress_sink progress;
    void *opaque;
    struct copy_log *log; /* NULL: who is interrupted has copied nothing */
    uint32_t map_sum;     /* the survey's: where there is data, and where nothing */
};

/* The most that a piece of data has: no compressed cluster of the source is read in parts. Known
 * when the source was surveyed. */
uint64_t copy_piece_size(const struct copy_job *job);
/* Tells the builder what will come. *BYTES: how much of it is data. */
int copy_survey(struct copy_job *job, uint64_t *bytes, struct img_error *err);
/* Gives all that is mapped as data a place, as a stream's tables need it beforehand. */
int copy_place(const struct copy_job *job, struct img_error *err);
/* Copies; TOTAL is what the survey found. */
int copy_run(const struct copy_job *job, uint64_t total, struct img_error *err);

#endif
