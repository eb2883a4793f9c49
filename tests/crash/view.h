/* What an image means: all that a user can see of it, whatever the bytes of the file are. */
#ifndef CRASH_VIEW_H
#define CRASH_VIEW_H

#include "record.h"
#include "lib/image.h"

/* A start image with what lies around it. */
struct scene {
    const char *format; /* "qcow2" or "raw" */
    struct disk disks[MAX_FILES];
    unsigned files;
    struct disk base; /* the raw backing file; size 0: none */
    struct disk undo; /* the undo file of a repair; size 0: none */
    bool damaged;     /* on purpose: parts of it may be unreadable */
};

void scene_free(struct scene *s);

/* Opens the image whose files are given, which are taken over, over the backing file of S. */
int scene_open(struct img **out, const struct scene *s, struct file *image, struct file *data_file,
               unsigned flags, struct img_error *err);

/* The same for contents that are only looked at. */
int scene_look(struct img **out, const struct scene *s, const struct disk *disks, unsigned flags,
               struct img_error *err);

/* Does the file at least claim to be an image? */
bool scene_has_image(const struct scene *s, const struct disk *d);

/* Can it be checked? */
bool scene_has_qcow2(const struct scene *s, const struct disk *d);

struct view {
    bool image; /* false: the file does not even claim to be one */
    char *info; /* size, features, names, lists of snapshots and bitmaps */
    char *kept; /* what the disks of all snapshots and the bitmaps hold */
    /* The active disk, without the zeroes that it may end with; in a damaged image, sectors that
     * cannot be read are marked. */
    uint8_t *guest;
    size_t size, held;  /* of the disk; of GUEST, in whole sectors */
    bool lost;          /* a part of the disk cannot be read; */
    bool lost_snapshot; /* or of a snapshot's */
    uint64_t unknown;   /* autoclear bits of features that are not known; no part of view_equal */
};

void view_free(struct view *v);
bool view_equal(const struct view *a, const struct view *b);

/* Does AFTER show all that BEFORE does? What could not be read may be anything. */
bool view_keeps(const struct view *before, const struct view *after);

/* Takes what IMG shows now for the disk of V. */
int view_take_guest(struct view *v, const struct scene *s, struct img *img, struct img_error *err);
bool view_same_guest(const struct view *a, const struct view *b);

/* The 512 bytes of the disk at AT. */
const uint8_t *view_sector(const struct view *v, size_t at);

/* Reads all of it from files. */
int view_take(struct view *v, const struct scene *s, const struct disk *disks,
              struct img_error *err);

#endif
