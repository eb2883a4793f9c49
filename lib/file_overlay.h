/*
 * A file as it would be: reads as another one with changes on top, which is not written to.
 *
 * Whoever changes a file in steps that depend on each other can take all of them here, look at what
 * comes of it, and then have it done, or not. A flush ends a stage; what each stage has written is
 * kept, and done again in its turn: on the way the file is what it was here at the end of each
 * stage, and within a stage each sector is as before or as after it. Changes are held in memory up
 * to a limit, and beyond that in an unnamed temporary file. Not for several threads at once.
 */
#ifndef LIB_FILE_OVERLAY_H
#define LIB_FILE_OVERLAY_H

#include "lib/file.h"

/* BELOW stays its owner's, and open for as long. MEMORY: bytes of changes that are held there. */
int overlay_open(struct file **out, struct file *below, size_t memory, struct img_error *err);

/* How many times what was written before had to be on disk first: what is written now comes in
 * this stage. */
uint32_t overlay_stage(const struct file *overlay);

/* As many contents, one after the other, the sector has that most stages have written. */
unsigned overlay_versions(const struct file *overlay);

/* LEN bytes from OFF, a sector's beginning, on; NEW has for each sector overlay_versions() times
 * 512 bytes: what it holds after each stage that writes it, the last of them as often as it takes.
 */
typedef int overlay_change_fn(void *opaque, host_off off, size_t len, const uint8_t *new,
                              struct img_error *err);

/* Calls FN for all sectors that are not always as BELOW has them, each once, in runs. */
int overlay_each_change(struct file *overlay, overlay_change_fn *fn, void *opaque,
                        struct img_error *err);

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
