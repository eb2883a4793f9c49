/*
 * Stating formats of backing files that the images do not state.
 *
 * Until then each program that opens the chain looks at the base anew. The one answer that cannot
 * be checked is raw: nothing speaks for it but that nothing else matches, so that a damaged header,
 * or a format that is not known here, would be shown to the guest as a disk for ever. So raw needs
 * a sign of its own.
 */
#include "lib/bytes.h"
#include "lib/checked.h"
#include "lib/ops/edit_walk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A number or a word at a certain place of a disk. */
struct sign {
    uint32_t offset;
    const char *bytes;
    uint32_t length;
};

static const struct sign signs[] = {
    {510, "\x55\xaa", 2},          /* a boot sector, or an MBR */
    {512, "EFI PART", 8},          /* GPT */
    {4096, "EFI PART", 8},         /* GPT, 4 KiB sectors */
    {1024 + 56, "\x53\xef", 2},    /* ext2, 3, 4 */
    {0, "XFSB", 4},                /* XFS */
    {65536 + 64, "_BHRfS_M", 8},   /* btrfs */
    {512, "LABELONE", 8},          /* LVM */
    {4096 - 10, "SWAPSPACE2", 10}, /* swap */
    {1024, "\xe2\xe1\xf5\xe0", 4}, /* EROFS */
    {1024, "\x10\x20\xf5\xf2", 4}, /* F2FS */
    {0, "hsqs", 4},                /* squashfs */
};

static int looks_like_disk(struct file *f, bool *yes, struct img_error *err)
{
    uint8_t now[16];
    *yes = false;
    for (size_t i = 0; i < sizeof signs / sizeof *signs && !*yes; i++) {
        int ret = file_read_padded(f, now, signs[i].length, host(signs[i].offset), err);
        if (ret < 0)
            return ret;
        *yes = !memcmp(now, signs[i].bytes, signs[i].length);
    }
    return 0;
}

/* Is F, which nothing has matched, a raw disk below one of SIZE bytes? */
static int check_raw(struct file *f, uint64_t size, bool *good, struct img_error *err)
{
    uint64_t length;
    int ret = file_size(f, &length, err);
    *good = !ret && align_up(length, 512) == size;
    return ret < 0 || *good ? ret : looks_like_disk(f, good, err);
}

static int find_format(const struct img_fix_formats_options *o, const struct layer *l,
                       struct file *f, const char **format, struct img_error *err)
{
    const struct driver *d = NULL;
    bool guessed, good = o->trust_raw;
    int ret = driver_probe(&d, f, !o->trust_raw, &guessed, err);
    if (ret < 0)
        return ret;
    *format = d->name;
    if (!guessed && driver_named_by_qemu(d->name))
        return 0;
    if (strcmp(d->name, "raw") != 0)
        return img_fail(
            err, ENOTSUP,
            "'%s', the backing file of '%s', would be taken for raw, but looks like '%s'", f->name,
            l->filename, d->name);
    if (!good)
        ret = check_raw(f, l->size, &good, err);
    if (!ret && !good)
        ret = img_fail(err, ENOTSUP,
                       "'%s', the backing file of '%s', looks like nothing that is known, and "
                       "nothing shows that it is a raw disk",
                       f->name, l->filename);
    return ret;
}

static int take(struct edit_walk *w, struct edited_image *i, struct below *b, struct img_error *err)
{
    const struct img_fix_formats_options *o = w->job;
    const struct layer *l = i->layer;
    const char *format = NULL;
    struct file *f;
    if (!l->backing_name || l->cut_off)
        return 0;
    int ret = edit_follow(w, i, b, err);
    if (ret < 0 || !b->ref.path || b->ref.format)
        return ret;
    ret = file_open_posix(&f, b->ref.path, false, err);
    if (ret < 0) {
        chain_explain(err, l, b->full);
        return ret;
    }
    ret = find_format(o, l, f, &format, err);
    file_close(f);
    if (ret < 0)
        return ret;
    i->backing_format = strdup(format);
    b->ref.format = strdup(format);
    b->firm = driver_by_name(format)->map; /* others are only named here, and end the walk */
    return i->backing_format && b->ref.format ? 0 : img_fail_nomem(err);
}

static int fix(struct edit_walk *w, const char *filename, const struct img_fix_formats_options *o,
               struct img_name_changes *result, struct img_error *err)
{
    int ret = edit_walk(w, &filename, 1, err);
    if (ret < 0)
        return ret;
    edit_tell(w, result, o->change);
    ret = o->dry_run ? 0 : edit_open(&w->edit, err);
    if (!ret)
        ret = edit_plan(&w->edit, err);
    return ret < 0 || o->dry_run ? ret : edit_commit(&w->edit, err);
}

int img_fix_backing_formats(const char *filename, const struct img_fix_formats_options *options,
                            struct img_name_changes *result, struct img_error *err)
{
    struct img_fix_formats_options o = options ? *options : (struct img_fix_formats_options){0};
    struct img_name_changes unwanted;
    const struct cancel cancel = {o.cancelled, o.opaque};
    struct edit_walk w = {.edit.cancel = &cancel,
                          .cancel = &cancel,
                          .dry_run = o.dry_run,
                          .open = o.open,
                          .warn = o.warn,
                          .opaque = o.opaque,
                          .take = take,
                          .job = &o};
    result = result ? result : &unwanted;
    *result = (struct img_name_changes){0};
    int ret = fix(&w, filename, &o, result, err);
    edit_clear(&w.edit);
    return ret;
}
