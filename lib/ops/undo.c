/* Putting back what a repair has overwritten. */
#include "lib/file_undo.h"
#include "lib/lock.h"
#include "lib/ref.h"

int img_undo(const char *undo_file, const char *image, const struct img_undo_options *options,
             struct img_undone *result, struct img_error *err)
{
    struct cancel cancel = {options ? options->cancelled : NULL, options ? options->opaque : NULL};
    struct image_ref ref = {0};
    struct file *undo = NULL, *file = NULL;
    *result = (struct img_undone){0};
    int ret = ref_parse(&ref, image, err);
    if (!ret)
        ret = file_open_posix(&undo, undo_file, false, err);
    if (!ret)
        ret = file_open_posix(&file, ref.path, true, err);
    if (!ret)
        ret = lock_take(file, LOCK_WRITER, err);
    if (!ret && cancel.wanted)
        file->cancel = &cancel;
    if (!ret)
        ret = undo_apply(undo, file, result, err);
    file_close(file);
    file_close(undo);
    ref_clear(&ref);
    return ret;
}
