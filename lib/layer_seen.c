#include "lib/layer_seen.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void layer_close_for_now(struct layer *l, struct layer_seen *seen)
{
    *seen = (struct layer_seen){.driver = l->driver,
                                .id = l->file->id,
                                .backing_name = l->backing_name,
                                .backing_format = l->backing_format,
                                .data_file_name = l->data_file_name};
    l->backing_name = l->backing_format = l->data_file_name = NULL; /* they outlive it */
    layer_close(l);
}

static bool same_text(const char *a, const char *b)
{
    return a && b ? !strcmp(a, b) : a == b;
}

int layer_still_is(const struct layer *l, const struct layer_seen *seen, struct img_error *err)
{
    const struct file_identity *now = &l->file->id;
    if (now->device == seen->id.device && now->inode == seen->id.inode &&
        l->driver == seen->driver && same_text(l->backing_name, seen->backing_name) &&
        same_text(l->backing_format, seen->backing_format) &&
        same_text(l->data_file_name, seen->data_file_name))
        return 0;
    return img_fail(err, EAGAIN, "it was changed by another program just now");
}

void layer_seen_clear(struct layer_seen *seen)
{
    free(seen->backing_name);
    free(seen->backing_format);
    free(seen->data_file_name);
    *seen = (struct layer_seen){0};
}
