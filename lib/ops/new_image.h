/*
 * A new image that appears under its name when it is whole: what create and convert have in common.
 *
 *   new_image_start     driver, path, and the options that there are
 *   new_image_plan      what the options lead to, without touching a file
 *   new_image_open      the files, still without a name
 *   new_image_publish   flushed, and named. Where an old image or an old data file is replaced,
 *                       at every instant the image's name means the old pair or the new one
 *                       (new_pair.c)
 *   new_image_close     in any case
 */
#ifndef LIB_OPS_NEW_IMAGE_H
#define LIB_OPS_NEW_IMAGE_H

#include "lib/driver.h"

struct new_image {
    const char *filename; /* as given */
    const char *path;     /* on this host */
    const char *format;
    const struct driver *driver;
    struct option_set options;
    struct create_plan plan;
    struct cancel cancel; /* WANTED may be NULL */
    struct progress_sink progress;
    struct file_identity *chain; /* files that are not to be replaced */
    size_t chain_count;
    const char *in_chain; /* what is said when one of them would be */
    bool partial;         /* the files have names of their own meanwhile (file.h) */
    bool unflushed;       /* a name that was free is given to a file that need not be on disk yet */
    struct new_file *image, *data;
};

/* MORE: options besides those of the format and of the host file; may be NULL. */
int new_image_start(struct new_image *n, const char *filename, const char *format,
                    const struct option_desc *more, struct img_error *err);
/* Adds what the user named beside the list of options; each may be NULL. */
int new_image_put_backing(struct new_image *n, const char *backing, const char *backing_format,
                          struct img_error *err);
/* Notes the files of a chain of layers. */
int new_image_keep_chain(struct new_image *n, struct layer *const *layers, unsigned depth,
                         struct img_error *err);
/* What the new image will read must not be what it replaces, or is written into: F. */
int new_image_check_kept(const struct new_image *n, const struct file *f, struct img_error *err);
int new_image_plan(struct new_image *n, struct img_error *err);
/* The same in two steps: the files, and, where they are new or made empty, how long they are. */
int new_image_open_files(struct new_image *n, struct img_error *err);
int new_image_give_size(struct new_image *n, struct img_error *err);
int new_image_open(struct new_image *n, struct img_error *err);
int new_image_publish(struct new_image *n, struct img_error *err);
void new_image_close(struct new_image *n);

/* new_pair.c: publishes an image and a data file that take the places of others. */
int new_pair_publish(struct new_image *n, struct img_error *err);

/* A better message for a size that is too large than a driver's or the host's: -EFBIG. */
int new_image_explain_size(const struct new_image *n, struct img_error *err);

/* The options of a new image, a line each; those of the host file, too, with FILENAME. */
int new_image_help(char **text, const char *format, const char *filename, struct img_error *err);

#endif
