/* One image of a chain: its files opened, its format chosen and started. */
#include "lib/image.h"
#include "lib/lock.h"
#include "lib/policy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int choose_driver(struct layer *l, const char *format, unsigned flags, bool is_backing,
                         bool *probed, struct img_error *err)
{
    *probed = !format;
    if (format) {
        l->driver = driver_by_name(!strcmp(format, "file") ? "raw" : format);
        return l->driver ? 0 : img_fail(err, EINVAL, "Unknown driver '%s'", format);
    }
    bool guessed, far = !(flags & IMG_OPEN_PROBE_LIKE_QEMU);
    int ret = driver_probe(&l->driver, l->file, far, &guessed, err);
    if (!ret && is_backing)
        ret = policy_probed_backing(l->driver, l->file, guessed, err);
    return ret;
}

/*
 * A plain disk may be read while it is written, as a base too: QEMU has it so. A writer of one
 * takes what a writer of any image takes, more than QEMU asks for.
 */
static struct lock wanted_lock(const struct layer *l, unsigned flags)
{
    if (flags & IMG_OPEN_WRITE)
        return LOCK_WRITER;
    bool plain = l->driver->plain && !(flags & IMG_OPEN_STILL);
    bool shared = (flags & IMG_OPEN_FORCE_SHARE) || plain;
    return shared ? LOCK_SHARER : LOCK_READER;
}

/*
 * Chooses the format of L's file, locks the file as that format needs it, and only then lets the
 * format read its metadata. On failure, L has no driver: nothing to close.
 */
static int start_driver(struct layer *l, const char *format, unsigned flags, bool is_backing,
                        bool *probed, struct img_error *err)
{
    int ret = choose_driver(l, format, flags, is_backing, probed, err);
    if (!ret)
        ret = lock_take(l->file, wanted_lock(l, flags), err);
    if (!ret)
        ret = l->driver->open(l, flags, err);
    if (ret < 0)
        l->driver = NULL;
    return ret;
}

static struct lock wanted_data_lock(unsigned flags)
{
    if (flags & IMG_OPEN_WRITE)
        return LOCK_DATA_WRITER;
    return flags & IMG_OPEN_FORCE_SHARE ? LOCK_SHARER : LOCK_DATA_READER;
}

static int open_data_file(struct layer *l, const struct image_ref *ref, unsigned flags,
                          struct img_error *err)
{
    char *path;
    int ret = 0;
    if (ref->data_file) {
        path = strdup(ref->data_file);
        ret = path ? 0 : img_fail_nomem(err);
    } else {
        ret = policy_data_file_path(&path, l->filename, l->data_file_name, err);
    }
    if (ret < 0)
        return ret;
    ret = file_open_posix(&l->data_file, path, flags & IMG_OPEN_WRITE, err);
    if (ret < 0) {
        char *absolute = policy_absolute(path);
        img_context(err, "the data file '%s' named by '%s', looked for at '%s'", path, l->filename,
                    absolute ? absolute : path);
        free(absolute);
    } else if (l->data_file->id.device == l->file->id.device &&
               l->data_file->id.inode == l->file->id.inode) {
        ret = img_fail(err, EINVAL, "Data file '%s' is the image itself", path);
    } else {
        ret = lock_take(l->data_file, wanted_data_lock(flags), err);
    }
    if (!ret && l->direct)
        ret = file_use_direct(l->data_file, err);
    free(path);
    return ret;
}

int layer_open(struct layer **out, const struct image_ref *ref,
               const struct img_open_options *options, bool is_backing, bool *probed,
               struct img_error *err)
{
    unsigned flags = options->flags | (ref->force_share ? IMG_OPEN_FORCE_SHARE : 0);
    if (is_backing)
        flags &= ~(unsigned)IMG_OPEN_WRITE;
    if (ref->backing && (flags & IMG_OPEN_NO_DATA)) /* what is not opened cannot be overridden */
        return img_fail(err, EINVAL,
                        "Block format '%s' does not support the option 'backing.driver'",
                        ref->format ? ref->format : "?");
    if (ref->read_only && (flags & IMG_OPEN_WRITE))
        return img_fail(err, EACCES, "Block node is read-only");
    struct layer *l = calloc(1, sizeof *l);
    char *name = ref_display_name(ref);
    if (!l || !name) {
        free(l);
        free(name);
        return img_fail_nomem(err);
    }
    l->filename = name;
    l->raw_offset = ref->raw_offset;
    l->raw_size = ref->raw_size;
    l->direct = ref->direct || (flags & IMG_OPEN_DIRECT);
    l->data_file_given = ref->data_file != NULL;
    l->cut_off = ref->no_backing;
    l->cache_bytes = LAYER_CACHE_MAX;
    int ret = ref->null ? file_open_null(&l->file, ref->path, ref->null_size, err)
                        : file_open_posix(&l->file, ref->path, flags & IMG_OPEN_WRITE, err);
    if (!ret && l->direct)
        ret = file_use_direct(l->file, err);
    if (!ret)
        ret = start_driver(l, ref->format, flags, is_backing, probed, err);
    if (!ret && ref->data_file && !l->external_data)
        ret = img_fail(err, EINVAL,
                       "'data-file' can only be set for images with an external data "
                       "file");
    if (!ret && l->external_data && !(flags & IMG_OPEN_NO_DATA))
        ret = open_data_file(l, ref, flags, err);
    if (ret < 0) {
        layer_close(l);
        return ret;
    }
    if (l->bitmaps_stale && options->warn)
        options->warn(options->opaque, IMG_WARN_BITMAPS_STALE, l->bitmaps_stale);
    if (l->repaired && options->warn)
        options->warn(options->opaque, IMG_WARN_REPAIRED, l->repaired);
    if (*probed && l->driver->plain && (flags & IMG_OPEN_WRITE) && options->warn)
        options->warn(options->opaque, IMG_WARN_PROBED_RAW, l->filename);
    *out = l;
    return 0;
}

int layer_open_file(struct layer **out, struct file *f, const char *format, unsigned flags,
                    struct img_error *err)
{
    struct layer *l = calloc(1, sizeof *l);
    char *name = strdup(f->name);
    if (!l || !name) {
        free(l);
        free(name);
        file_close(f);
        return img_fail_nomem(err);
    }
    bool probed;
    *l = (struct layer){
        .filename = name, .file = f, .raw_size = UINT64_MAX, .cache_bytes = LAYER_CACHE_MAX};
    int ret = start_driver(l, format, flags, false, &probed, err);
    if (ret < 0)
        layer_close(l);
    else
        *out = l;
    return ret;
}

void layer_close(struct layer *l)
{
    if (!l)
        return;
    if (l->driver)
        l->driver->close(l);
    file_close(l->data_file);
    file_close(l->file);
    free(l->backing_name);
    free(l->backing_format);
    free(l->data_file_name);
    free(l->filename);
    free(l->repaired);
    free(l);
}

int layer_open_top(struct layer **out, struct image_ref *ref, const char *filename,
                   const struct img_open_options *options, struct img_error *err)
{
    bool opts = options->flags & IMG_OPEN_IMAGE_OPTS;
    int ret = opts ? ref_parse_opts(ref, filename, err) : ref_parse(ref, filename, err);
    if (!ret && options->format) {
        free(ref->format);
        bool host_driver = !strcmp(options->format, "file") ||
                           !strcmp(options->format, "host_device");
        ref->format = strdup(host_driver ? "raw" : options->format);
        if (!ref->format)
            ret = img_fail_nomem(err);
    }
    bool probed;
    if (!ret)
        ret = layer_open(out, ref, options, false, &probed, err);
    if (ret < 0)
        ref_clear(ref);
    return ret;
}
