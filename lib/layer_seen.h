/*
 * A layer that is closed for a moment: its lock as a reader is in the way of the one as a writer,
 * even of the same program. Another program may come in between; so what the file said is
 * remembered, and compared once it is open and locked again.
 */
#ifndef LIB_LAYER_SEEN_H
#define LIB_LAYER_SEEN_H

#include "lib/image.h"

struct layer_seen {
    const struct driver *driver;
    struct file_identity id;
    char *backing_name, *backing_format, *data_file_name;
};

/* Closes L. */
void layer_close_for_now(struct layer *l, struct layer_seen *seen);

/* -EAGAIN: L is another file, or names other files. */
int layer_still_is(const struct layer *l, const struct layer_seen *seen, struct img_error *err);

void layer_seen_clear(struct layer_seen *seen);

#endif
