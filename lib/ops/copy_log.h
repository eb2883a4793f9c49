/*
 * The log of a copy: what of it is on disk, so that a later run can go on where this one ended.
 *
 * It is a file of its own. Its head is the caller's, who knows by it what was being copied; behind
 * it come records, each of which names the runs of some pieces of the copy, in the disk's order. A
 * record is written when all that it names has been flushed, about once a second. A later run gives
 * all runs their places again, so that the tables of the target come into being as they would have,
 * and copies from there on.
 *
 * All numbers are big-endian:
 *
 *   head     "IMGRESM\n", version, length of the caller's bytes (32 bits each), those, CRC-32 of
 *            all before it
 *   record   length of the runs (32 bits), where the copy of the disk has come to, how much of that
 *            was data, where the data ends in the target's file (64 bits each), the runs, CRC-32 of
 *            the CRC before this one and of the record
 *   run      numbers of seven bits a byte, the lowest first: what lies between it and the run
 *            before, times four, and the kind; its length; when it is compressed, its stored length
 *
 * What ends in the middle of a record, or has another CRC, ends before it.
 */
#ifndef LIB_OPS_COPY_LOG_H
#define LIB_OPS_COPY_LOG_H

#include "lib/ops/copy.h"

struct copy_progress {
    uint64_t at;   /* all of the disk before it is on disk */
    uint64_t done; /* bytes of data among that */
    uint64_t end;  /* of the data in the target's file */
};

struct copy_log {
    char *path;
    int fd;
    bool mine; /* the file is there, and nobody else has put it there */
    uint8_t *head; /* the caller's */
    size_t head_length;
    uint64_t length; /* of the file: the next record goes there */
    uint32_t sum;    /* of the last record */
    struct copy_progress logged;

    /* reading */
    uint64_t position;
    uint32_t reading_sum;
    uint8_t *record;
    size_t record_length, record_at;
    struct copy_progress reading;
    uint64_t last_end; /* of the run that was read last, in the disk */

    /* writing */
    struct file *files[2]; /* the caller's, flushed before a record is written; may be NULL */
    pthread_mutex_t lock, committing;
    uint8_t *runs; /* of the pieces that have places and are in no record yet */
    size_t runs_length, runs_room;
    uint64_t settled_end; /* of the last run of all that have places */
    struct logged_piece *pieces;
    size_t piece_count, piece_room;
    uint64_t first_piece; /* the number of the first of them */
    size_t ready;         /* so many pieces in a row, from the first on, are written */
    struct copy_progress settled;
    uint64_t time_since;
    bool broken; /* a flush has failed: nothing more is known to be on disk */
};

/* An empty one, which is no file yet. PATH is copied. */
int copy_log_new(struct copy_log **out, const char *path, struct img_error *err);
/* Reads the file, if it is there: *FOUND says whether it makes sense. One that others could have
 * put there is refused. */
int copy_log_load(struct copy_log *log, bool *found, struct img_error *err);
/* Writes the file anew, with the caller's bytes and no records. */
int copy_log_create(struct copy_log *log, const void *head, size_t length, struct img_error *err);
void copy_log_remove(const struct copy_log *log);
void copy_log_free(struct copy_log *log);

/* The next of the runs that were logged: 1, or 0 when there are no more. */
int copy_log_next(struct copy_log *log, struct copy_run *run, struct img_error *err);
/* All of them were read: from here on, pieces are logged. */
void copy_log_begin(struct copy_log *log);
/* A piece has its places; pieces come in order, one at a time. SIZE: of the disk. */
int copy_log_settled(struct copy_log *log, const struct copy_run *runs, size_t count,
                     uint64_t piece_end, uint64_t data, uint64_t size, uint64_t *number,
                     struct img_error *err);
/* It is written; from several threads at once. */
int copy_log_finished(struct copy_log *log, uint64_t number, struct img_error *err);
/* After a failure: what is complete is logged, if that can be done. */
void copy_log_stop(struct copy_log *log);

/* copy_log_file.c, for copy_log.c: writes a record; P is where it leads. */
int copy_log_append(struct copy_log *log, const uint8_t *runs, size_t length,
                    const struct copy_progress *p, struct img_error *err);

#endif
