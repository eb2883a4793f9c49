/* Making new images: see struct driver. */
#ifndef QCOW2_CREATE_H
#define QCOW2_CREATE_H

#include "formats/qcow2/encode.h"
#include "formats/qcow2/layout.h"

/* Options that an image can be created with and given later. */
#define QCOW2_COMMON_OPTIONS                                                                       \
    {"size", OPTION_SIZE, "Virtual disk size", NULL},                                              \
        {"compat", OPTION_STRING, "Compatibility level (v2 [0.10] or v3 [1.1])", NULL},            \
        {"backing_file", OPTION_STRING, "File name of a base image", NULL},                        \
        {"backing_fmt", OPTION_STRING, "Image format of the base image", NULL},                    \
        {"data_file", OPTION_STRING, "File name of an external data file", NULL},                  \
        {"data_file_raw", OPTION_BOOL, "The external data file must stay valid as a raw image",    \
         NULL},                                                                                    \
        {"lazy_refcounts", OPTION_BOOL, "Postpone refcount updates", "off"},                       \
    {                                                                                              \
        "refcount_bits", OPTION_NUMBER, "Width of a reference count entry in bits", "16"           \
    }

/* Everything that is written: a plan's layout. */
struct qcow2_new {
    struct qcow2_layout layout;
    struct qcow2_header header;
    struct qcow2_header_parts names; /* the option set's */
    enum preallocation preallocation;
};

extern const struct option_desc qcow2_create_options[];

int qcow2_plan(struct create_plan *plan, const struct option_set *options, struct img_error *err);
int qcow2_create(const struct create_plan *plan, struct file *f, struct img_error *err);

/* What the options say, if an image can have it. NEWER: the option that goes beyond an old version.
 */
int qcow2_read_cluster_size(uint32_t *bits, const struct option_set *o, struct img_error *err);
int qcow2_check_refcount_bits(uint64_t bits, uint32_t version, const char *newer,
                              struct img_error *err);

/* measure.c: how large an image of these options would be. */
int qcow2_measure(const struct measure_request *r, struct img_measurement *out,
                  struct img_error *err);
/* All but the header, which is cleared first on a device. */
int qcow2_write_new_tables(struct file *f, const struct qcow2_new *n, struct img_error *err);

/*
 * The first sector comes last: without it, there is no image. On a device, where old bytes would
 * show through, all else is on disk before.
 */
int qcow2_write_new_header(struct file *f, const struct qcow2_new *n, struct img_error *err);

/*
 * A device that is written in place stops being the old image before it begins to be the new one.
 * Of more than a sector, a part could be zeroed that is none of the old image's header.
 */
int qcow2_clear_header(struct file *f, struct img_error *err);

#endif
