/*
 * A file as it would be: reads as another one with changes on top, which is not written to.
 *
 * Whoever changes a file in steps that depend on each other can take all of them here, look at what
 * comes of it, and then have it done, or not. What was written last to each sector counts, and it
 * comes in the stage in which it was written last; but behind the file's old end in that of its
 * first writing, so that what leads there never leads to less than the last. Changes are held in
 * memory up to a limit, and beyond that in an unnamed temporary file. Not for several threads at
 * once.
 */
#ifndef LIB_FILE_OVERLAY_H
#define LIB_FILE_OVERLAY_H

#include "lib/file.h"

/* BELOW stays its owner's, and open for as long. MEMORY: bytes of changes that are held there. */
int overlay_open(struct file **out, struct file *below, size_t memory, struct img_error *err);

/* How many times what was written before had to be on disk first: what is written now comes in
 * this stage. */
uint32_t overlay_stage(const struct file *overlay);

/* How far overlay_replay got. */
struct overlay_progress {
    bool inside; /* something that BELOW had has been overwritten, in use or not */
    bool begun;  /* a stage that cannot be stopped has begun */
};

/*
 * Writes to TO, which holds the same as BELOW, every sector that differs; each stage, and a flush
 * after it, before the next. From stage SAFE on nobody is asked any more whether to go on.
 */
int overlay_replay(struct file *overlay, struct file *to, uint32_t safe,
                   struct overlay_progress *progress, struct img_error *err);

#endif
