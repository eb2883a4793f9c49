/*
 * What a name refers to: a path, "file:PATH", "null-co://", "json:{...}", or a list of options. All
 * end in the same flat list of dotted keys, which is read in one place.
 */
#ifndef LIB_REF_H
#define LIB_REF_H

#include "lib/error.h"

struct image_ref {
    char *format; /* NULL: not stated */
    char *path;   /* on this host; for the null device, its name */
    bool null;    /* QEMU's null-co: no file, NULL_SIZE bytes of zeroes */
    uint64_t null_size;
    uint64_t raw_offset, raw_size; /* a raw image's window; UINT64_MAX: to the end */
    char *data_file;               /* an external data file's path, instead of the stored one */
    bool direct;               /* without the host's cache: only whole sectors can be asked for */
    bool read_only;            /* not to be opened for writing */
    bool force_share;          /* as IMG_OPEN_FORCE_SHARE */
    bool no_backing;           /* "backing": null */
    struct image_ref *backing; /* overrides what the image names, or NULL */
};

/* A name that a user typed or an image holds. */
int ref_parse(struct image_ref *out, const char *name, struct img_error *err);

/* "driver=qcow2,file.filename=a.qcow2"; a comma in a value is doubled. */
int ref_parse_opts(struct image_ref *out, const char *opts, struct img_error *err);

void ref_clear(struct image_ref *ref);

/* How QEMU shows an image opened so: the path, or json: where that would not lead to the same. */
char *ref_display_name(const struct image_ref *ref);

#endif
