/* The copy engine: what its files share. */
#ifndef LIB_OPS_COPY_ENGINE_H
#define LIB_OPS_COPY_ENGINE_H

#include "lib/ops/copy.h"

/* What an image knows of already, and its file does not have yet. */
struct copy_late {
    struct file *file;
    host_off host;
    const uint8_t *data;
    uint64_t length, offset; /* on the disk */
};

/* A piece on its way; its memory is used again for the next. */
struct copy_piece {
    uint64_t start, length; /* of the disk: whole units, but at its end */
    enum copy_kind kind;
    struct copy_part *parts; /* DATA: what it is put together from */
    size_t part_count, part_room;
    struct copy_run *runs; /* what came of it */
    size_t run_count, run_room;
    struct copy_late *late;
    size_t late_count, late_room;
    uint8_t *buf, *packed;
    void *compressor;
    uint64_t number; /* the log's */
};

/* copy.c: the piece at *AT, which moves behind it. */
int copy_next(const struct copy_job *j, uint64_t *at, struct copy_piece *piece,
              struct img_error *err);

/* copy_piece.c */
int copy_piece_add(struct copy_piece *p, const struct copy_part *part, struct img_error *err);
int copy_piece_add_run(struct copy_piece *p, const struct copy_run *run, struct img_error *err);
int copy_piece_late_room(struct copy_piece *p, struct img_error *err);
/* Reads all parts; what lies behind the disk's end in the last unit is zero. */
int copy_piece_read(const struct copy_job *j, struct copy_piece *p, struct img_error *err);
/* Divides what was read into runs of data and of zeroes, or into units that are compressed. */
int copy_piece_divide(const struct copy_job *j, struct copy_piece *p, struct img_error *err);
void copy_piece_free(const struct copy_job *j, struct copy_piece *p);

/* copy_target.c */
int copy_target_settle(struct copy_target *t, struct copy_run *r, struct img_error *err);
/* SIZE: of the disk, behind which nothing is written. */
int copy_target_finish(struct copy_target *t, struct copy_piece *p, uint64_t size,
                       struct img_error *err);

/* copy_late.c: P is settled between these two; FAILED: not all of it, and it is not finished. */
void copy_late_settling(struct copy_target *t, struct copy_piece *p);
void copy_late_settled(struct copy_target *t, bool failed);
int copy_late_write(struct copy_target *t, const struct copy_run *r, uint64_t length,
                    struct img_error *err);
int copy_late_finish(struct copy_target *t, struct copy_piece *p, struct img_error *err);

/* Gives a run that was written by an earlier copy the place that it had. */
int copy_target_replay(struct copy_target *t, struct copy_run *r, struct img_error *err);
/* The end of its place in the file. SIZE: of the disk. */
uint64_t copy_run_end(const struct copy_run *r, uint64_t size);

/* What was wrong, in QEMU's words; its own become the context. */
int copy_failed(struct img_error *err, int ret, const char *doing, uint64_t offset);

/* A limit for the speed. */
struct copy_pace {
    uint64_t started; /* in nanoseconds; 0: not yet */
    uint64_t bytes;
};
int copy_pace_wait(struct copy_pace *pace, const struct copy_job *j, uint64_t bytes,
                   struct img_error *err);

#endif
