/*
 * An image whose host files fail, tried call by call: see scene_try.
 */
#ifndef FAULT_SCENE_H
#define FAULT_SCENE_H

#include "faulty_file.h"

enum { SCENE_LAYERS = 2, SCENE_FILES = 3 };

enum step { DESCRIBE, TABLES, MAP, READ, CHECK, STEPS };

/* An image to try, and what it says when all goes well. */
struct scene {
    const char *name;
    struct image files[SCENE_FILES];
    const char *file_names[SCENE_FILES];
    unsigned layers; /* files[0] is the top */
    bool data_file;  /* the last file is the external data file of the top */
    unsigned flags;
    bool steps[STEPS];
    char *answers[STEPS];
    struct img_extent *extents; /* of the map */
    size_t extent_count;
    uint8_t **bytes; /* of the beginning of each extent */
    struct faults faults;
};

/* An image of one file, with which all steps are taken. */
struct scene scene_new(const char *name, struct image top);

/*
 * The n-th call to the host fails, for every n until all goes well, in each way that a call can
 * fail. Each step must then succeed with the right answer, or fail with one error that says what
 * could not be read; and the next try on the same handle must succeed, so that nothing of a failed
 * call is kept. Releases the scene.
 */
void scene_try(struct scene *s);

#endif
