/* convert: what its files share. */
#ifndef LIB_OPS_CONVERT_H
#define LIB_OPS_CONVERT_H

#include "lib/ops/copy.h"
#include "lib/ops/new_image.h"

struct conversion {
    const struct img_convert_options *given;
    const char *filename, *format; /* of the target */
    struct img **images;           /* the sources */
    size_t image_count;
    const char *backing; /* the target's; NULL: none */
    struct img *below;   /* that image */
    struct new_image target;
    struct img *existing;     /* or: the target that is there */
    struct file *from_stream; /* what the source is read from, where it is a pipe */
    struct copy_source source;
    struct copy_target to;
    struct copy_job job;
    uint64_t data_bytes;
    bool goes_on; /* where an earlier run was interrupted */
    bool anew;    /* there is none to go on with */
    char *began;  /* what the log knows that one by; NULL: nobody wants to resume this one */
    size_t began_length;
    /* For who wants a part of the source's disk only: called when it is open, sets WINDOW. NULL:
     * all of it. */
    void (*choose_window)(struct conversion *c);
    struct {
        uint64_t start, length;
    } window;
    const char *creating; /* what was being done when the target could not be made; NULL: convert's
                             words */
};

/* img_convert, for a conversion of which no more is set than the last three. */
int conversion_run(struct conversion *c, const char *target,
                   const struct img_convert_options *given, struct img_error *err);

/* The source's map, and what it tells the target. */
int conversion_start_copy(struct conversion *c, struct img_error *err);

/* The new target's options, its builder and what lies below it. */
int conversion_plan(struct conversion *c, struct img_error *err);

/* convert_adopt.c: all of it, once the options are read. */
int conversion_adopt(struct conversion *c, struct img_error *err);

/* convert_share.c: finds out whether data can be shared with the source's files. */
int conversion_try_sharing(struct conversion *c, struct img_error *err);

/* convert_stream.c */
int conversion_open_stream(struct conversion *c, const struct img_open_options *open,
                           struct img_error *err);
int conversion_to_stream(struct conversion *c, struct img_error *err);
/* After a failure RET: says so if the stream is of the wrong kind. */
void conversion_explain_stream(const struct conversion *c, int ret, struct img_error *err);

/* Another handle for the new image, which has no name yet. */
int conversion_reopen(const struct conversion *c, unsigned flags, struct img **out,
                      struct img_error *err);

/* convert_resume.c; each does nothing unless a run that is interrupted shall be resumed */
int conversion_resume_check(const struct conversion *c, struct img_error *err);
/* The target's files are open: is there a run to go on with? Then they are as it left them. */
int conversion_resume_find(struct conversion *c, struct img_error *err);
/* All is known about the source's map, and nothing is copied yet. */
int conversion_resume_prepare(struct conversion *c, struct img_error *err);
int conversion_resume_begin(struct conversion *c, struct img_error *err);
/* RET is what came out. */
void conversion_resume_end(struct conversion *c, int ret, struct img_error *err);

/* convert_verify.c: nothing unless it is wanted */
int conversion_verify(const struct conversion *c, struct img_error *err);

/* convert_bitmaps.c; each does nothing unless bitmaps are wanted */
int conversion_check_bitmaps(const struct conversion *c, struct img_error *err);
int conversion_copy_bitmaps(const struct conversion *c, struct img *to, struct img_error *err);
int conversion_copy_bitmaps_to_new(const struct conversion *c, struct img_error *err);

#endif
