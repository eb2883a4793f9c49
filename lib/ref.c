/*
 * References to images.
 *
 * JSON and option lists are first flattened to dotted keys ("file.filename"), as QEMU does. What
 * the keys may say is narrow on purpose: a name inside an image is written by whoever made the
 * image, so only files of this host can be reached (no network, no other drivers but the null
 * device), and unknown keys are errors.
 */
#include "lib/ref.h"
#include "lib/ref_runtime.h"
#include "lib/driver.h"
#include "lib/flatopts.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int set_string(char **field, const char *value, struct img_error *err)
{
    free(*field);
    *field = strdup(value);
    return *field ? 0 : img_fail_nomem(err);
}

static int set_path(char **field, const char *value, struct img_error *err)
{
    if (!*value)
        return img_fail(err, EINVAL, "The 'file' block driver requires a file name");
    return set_string(field, value, err);
}

static int set_size(uint64_t *field, const char *key, const char *value, struct img_error *err)
{
    if (img_parse_size(value, field) < 0 || *field > INT64_MAX)
        return img_fail(err, EINVAL, "Parameter '%s' expects a size, not '%s'", key, value);
    return 0;
}

static int set_bool(bool *field, const char *key, const char *value, struct img_error *err)
{
    *field = !strcmp(value, "on") || !strcmp(value, "true") || !strcmp(value, "yes");
    if (!*field && strcmp(value, "off") && strcmp(value, "false") && strcmp(value, "no"))
        return img_fail(err, EINVAL, "Parameter '%s' expects 'on' or 'off'", key);
    return 0;
}

/* 1: that was the option. */
static int set_read_only(struct image_ref *out, const char *key, const char *value,
                         struct img_error *err)
{
    bool is_on;
    if (strcmp(key, "read-only") != 0 && strcmp(key, "file.read-only") != 0)
        return 0;
    int ret = set_bool(&is_on, "read-only", value, err);
    out->read_only |= !ret && is_on;
    return ret < 0 ? ret : 1;
}

static bool is_host_driver(const char *name)
{
    return !strcmp(name, "file") || !strcmp(name, "host_device");
}

/* ---- the null device: the same with QEMU's two names ---- */

#define NULL_SIZE (1ull << 30) /* QEMU's own choice */

static const char null_name[] = "null-co://";

static bool is_null_driver(const char *name)
{
    return name && (!strcmp(name, "null-co") || !strcmp(name, "null-aio"));
}

static int set_null(struct image_ref *out, struct img_error *err)
{
    out->null = true;
    out->null_size = NULL_SIZE;
    return set_string(&out->path, null_name, err);
}

/* It always reads as zeroes, whether that was asked for or not. */
static int set_null_option(struct image_ref *out, const char *key, const char *value,
                           struct img_error *err)
{
    bool zeroes;
    uint64_t latency;
    if (!value)
        return img_fail(err, EINVAL, "Option '%s' cannot be null", key);
    if (!strcmp(key, "size"))
        return set_size(&out->null_size, key, value, err);
    if (!strcmp(key, "read-zeroes"))
        return set_bool(&zeroes, key, value, err);
    if (!strcmp(key, "latency-ns"))
        return set_size(&latency, key, value, err);
    if (!strcmp(key, "driver"))
        return 0;
    int ret = set_read_only(out, key, value, err);
    if (!ret)
        ret = ref_runtime_option("raw", key, value, err);
    if (ret)
        return ret < 0 ? ret : 0;
    return img_fail(err, EINVAL, "Block protocol 'null-co' doesn't support the option '%s'", key);
}

/* ---- options ---- */

static int ref_from_options(struct image_ref *out, const struct flat_options *o,
                            struct img_error *err);

/* "backing.driver", "backing.file.filename", ... */
static int set_backing(struct image_ref *out, const struct flat_options *o, struct img_error *err)
{
    if (out->backing)
        return 0;
    struct flat_options below = {0};
    int ret = 0;
    for (size_t i = 0; i < o->count && !ret; i++)
        if (!strncmp(o->items[i].key, "backing.", 8))
            ret = flat_options_add(&below, o->items[i].key + 8, o->items[i].value, err);
    out->backing = calloc(1, sizeof *out->backing);
    if (!ret && !out->backing)
        ret = img_fail_nomem(err);
    if (!ret)
        ret = ref_from_options(out->backing, &below, err);
    flat_options_clear(&below);
    return ret;
}

static int set_option(struct image_ref *out, const struct flat_options *o, const char *key,
                      const char *value, struct img_error *err)
{
    if (!strncmp(key, "backing.", 8))
        return out->format && !strcmp(out->format, "raw")
                   ? img_fail(err, EINVAL, "Block format 'raw' does not support the option '%s'",
                              key)
                   : set_backing(out, o, err);
    if (!strcmp(key, "backing")) {
        if (value)
            return img_fail(err, EINVAL, "Cannot find device='%s' nor node-name='%s'", value,
                            value);
        out->no_backing = true;
        return 0;
    }
    if (!value)
        return img_fail(err, EINVAL, "Option '%s' cannot be null", key);
    if (!strcmp(key, "driver")) {
        const char *format = is_host_driver(value) ? "raw" : value;
        return driver_by_name(format) ? set_string(&out->format, format, err)
                                      : img_fail(err, EINVAL, "Unknown driver '%s'", value);
    }
    if (!strcmp(key, "file.filename") || !strcmp(key, "filename"))
        return set_path(&out->path, value, err);
    if (!strcmp(key, "data-file.filename") || !strcmp(key, "data-file.file.filename"))
        return set_string(&out->data_file, value, err);
    if (!strcmp(key, "file.driver") || !strcmp(key, "data-file.file.driver"))
        return is_host_driver(value)
                   ? 0
                   : img_fail(err, ENOTSUP, "Protocol driver '%s' is not allowed, only 'file'",
                              value);
    if (!strcmp(key, "data-file.driver") && (is_host_driver(value) || !strcmp(value, "raw")))
        return 0;
    if (!strcmp(key, "file") || !strcmp(key, "data-file"))
        return img_fail(err, EINVAL, "Cannot find device='%s' nor node-name='%s'", value, value);
    if (!strcmp(key, "offset"))
        return set_size(&out->raw_offset, key, value, err);
    if (!strcmp(key, "size"))
        return set_size(&out->raw_size, key, value, err);
    if (!strcmp(key, "force-share"))
        return set_bool(&out->force_share, key, value, err);
    if (!strcmp(key, "cache.direct") || !strcmp(key, "file.cache.direct"))
        return set_bool(&out->direct, key, value, err);
    if (!strcmp(key, "file.locking")) { /* without locks others cannot be in the way */
        out->force_share |= !strcmp(value, "off");
        return 0;
    }
    int ret = set_read_only(out, key, value, err);
    if (!ret)
        ret = ref_runtime_option(out->format, key, value, err);
    if (ret)
        return ret < 0 ? ret : 0;
    if (!strncmp(key, "file.", 5))
        return img_fail(err, EINVAL, "Block protocol 'file' doesn't support the option '%s'",
                        key + 5);
    return img_fail(err, EINVAL, "Block format '%s' does not support the option '%s'",
                    out->format ? out->format : "raw", key);
}

/* A format is needed before the keys that only some formats have; "driver" is read first. */
static int ref_from_options(struct image_ref *out, const struct flat_options *o,
                            struct img_error *err)
{
    int ret = 0;
    *out = (struct image_ref){.raw_size = UINT64_MAX};
    const char *driver = flat_options_get(o, "driver");
    const char *host_driver = flat_options_get(o, "file.driver");
    const char *null = is_null_driver(driver)        ? ""
                       : is_null_driver(host_driver) ? "file."
                                                     : NULL; /* where its options are */
    size_t prefix = null ? strlen(null) : 0;
    if (null)
        ret = set_null(out, err);
    else if (host_driver && !is_host_driver(host_driver))
        ret = set_option(out, o, "file.driver", host_driver, err);
    if (!ret && null && !prefix)
        ret = set_string(&out->format, "raw", err);
    else if (!ret && driver)
        ret = set_option(out, o, "driver", driver, err);
    for (size_t i = 0; i < o->count && !ret; i++) {
        const char *key = o->items[i].key, *value = o->items[i].value;
        ret = null && !strncmp(key, null, prefix) ? set_null_option(out, key + prefix, value, err)
                                                  : set_option(out, o, key, value, err);
    }
    if (!ret && !out->path)
        ret = driver ? img_fail(err, EINVAL, "A block device must be specified for \"file\"")
                     : img_fail(err, EINVAL, "Must specify either driver or file");
    if (!ret && (out->raw_offset || out->raw_size != UINT64_MAX) &&
        (!out->format || strcmp(out->format, "raw")))
        ret = img_fail(err, EINVAL, "Block format '%s' does not support the option 'offset'",
                       out->format ? out->format : "?");
    if (ret < 0)
        ref_clear(out);
    return ret;
}

int ref_parse(struct image_ref *out, const char *name, struct img_error *err)
{
    *out = (struct image_ref){.raw_size = UINT64_MAX};
    if (!strncmp(name, "json:", 5)) {
        struct flat_options o = {0};
        int ret = flat_options_from_json(&o, name + 5, err);
        if (!ret)
            ret = ref_from_options(out, &o, err);
        flat_options_clear(&o);
        return ret;
    }
    if (!strncmp(name, "null-co:", 8) || !strncmp(name, "null-aio:", 9))
        return strcmp(strchr(name, ':'), "://") != 0
                   ? img_fail(err, EINVAL, "The only allowed filename for this driver is '%.*s://'",
                              (int)strcspn(name, ":"), name)
                   : set_null(out, err);
    size_t colon = strcspn(name, ":/"); /* "nbd:host:port": a colon before any slash */
    bool local = !strncmp(name, "file:", 5) || !strncmp(name, "host_device:", 12);
    if (name[colon] == ':' && !local)
        return img_fail(err, ENOTSUP, "Unknown protocol '%.*s'", (int)colon, name);
    if (!local)
        return set_path(&out->path, name, err);
    name += colon + 1;
    char *plain = NULL; /* as QEMU has it: what remains must not look like a protocol's name */
    if (name[strcspn(name, ":/")] == ':' && asprintf(&plain, "./%s", name) < 0)
        return img_fail_nomem(err);
    int ret = set_path(&out->path, plain ? plain : name, err);
    free(plain);
    return ret;
}

/*
 * QEMU's filter blkdebug, above an image that a user names: limits on how long and how aligned
 * requests are change nothing of what the image holds. Errors that it is to inject are refused.
 * Names inside images cannot have it.
 */
static int look_through_blkdebug(struct flat_options *o, struct img_error *err)
{
    static const char *const limits[] = {"align",          "max-transfer", "opt-write-zero",
                                         "max-write-zero", "opt-discard",  "max-discard"};
    struct flat_options below = {0};
    int ret = 0;
    for (size_t i = 0; i < o->count && !ret; i++) {
        const char *key = o->items[i].key;
        bool known = !strcmp(key, "driver");
        for (size_t k = 0; k < sizeof limits / sizeof *limits; k++)
            known |= !strcmp(key, limits[k]);
        if (!strncmp(key, "image.", 6))
            ret = flat_options_add(&below, key + 6, o->items[i].value, err);
        else if (!known)
            ret = img_fail(err, EINVAL,
                           "Block format 'blkdebug' is looked through: the option "
                           "'%s' is not supported",
                           key);
    }
    flat_options_clear(o);
    *o = below;
    return ret;
}

int ref_parse_opts(struct image_ref *out, const char *opts, struct img_error *err)
{
    struct flat_options o = {0};
    *out = (struct image_ref){.raw_size = UINT64_MAX};
    int ret = flat_options_from_list(&o, opts, err);
    const char *driver = ret < 0 ? NULL : flat_options_get(&o, "driver");
    if (driver && !strcmp(driver, "blkdebug"))
        ret = look_through_blkdebug(&o, err);
    if (!ret)
        ret = ref_from_options(out, &o, err);
    flat_options_clear(&o);
    return ret;
}

void ref_clear(struct image_ref *ref)
{
    if (!ref)
        return;
    ref_clear(ref->backing);
    free(ref->backing);
    free(ref->format);
    free(ref->path);
    free(ref->data_file);
    *ref = (struct image_ref){.raw_size = UINT64_MAX};
}

char *ref_display_name(const struct image_ref *ref)
{
    char *null = NULL;
    if (ref->null && ref->null_size != NULL_SIZE)
        return asprintf(&null, "json:{\"driver\": \"null-co\", \"size\": %" PRIu64 "}",
                        ref->null_size) < 0
                   ? NULL
                   : null;
    if (!ref->raw_offset && ref->raw_size == UINT64_MAX)
        return strdup(ref->path);
    char *path = flat_json_string(ref->path), *out = NULL;
    char offset[48] = "", size[48] = "";
    if (ref->raw_offset)
        snprintf(offset, sizeof offset, "\"offset\": \"%" PRIu64 "\", ", ref->raw_offset);
    if (ref->raw_size != UINT64_MAX)
        snprintf(size, sizeof size, "\"size\": \"%" PRIu64 "\", ", ref->raw_size);
    if (path && asprintf(&out,
                         "json:{%s\"driver\": \"raw\", %s\"file\": {\"driver\": \"file\", "
                         "\"filename\": %s}}",
                         offset, size, path) < 0)
        out = NULL;
    free(path);
    return out;
}
