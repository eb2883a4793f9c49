/*
 * Changing the options of an image. What is asked for is checked, and refused, in the order and the
 * words of QEMU. Everything happens in one transaction, unless the size is to change: then what
 * comes before that is a transaction of its own, as is what comes after.
 */
#include "formats/qcow2/amend.h"
#include "formats/qcow2/create.h"
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/snapshot_table.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

const struct option_desc qcow2_amend_options[] = {
    {"encrypt.state", OPTION_STRING, "Select new state of affected keyslots (active/inactive)",
     NULL},
    {"encrypt.keyslot", OPTION_NUMBER, "Select a single keyslot to modify explicitly", NULL},
    {"encrypt.old-secret", OPTION_STRING, "Select all keyslots that match this password", NULL},
    {"encrypt.new-secret", OPTION_STRING,
     "New secret to set in the matching keyslots. Empty string to erase", NULL},
    {"encrypt.iter-time", OPTION_NUMBER, "Time to spend in PBKDF in milliseconds", NULL},
    QCOW2_COMMON_OPTIONS,
    {NULL, OPTION_STRING, NULL, NULL},
};

struct amendment {
    struct layer *layer;
    struct qcow2 *q;
    const struct amend_request *request;
    const struct option_set *options;
    struct transaction t;
    struct amend_progress progress;
    unsigned old_version, version, order;
    bool data_raw, lazy;
};

/* ---- how far it is ------------------------------------------------------------------------- */

void amend_progress_next(struct amend_progress *p)
{
    if (p->started) {
        p->work_finished += p->work;
        p->finished++;
    }
    p->started = true;
    p->work = 0;
}

void amend_progress_report(void *opaque, uint64_t done, uint64_t work)
{
    struct amend_progress *p = opaque;
    p->work = work;
    uint64_t known = p->work_finished + work;
    uint64_t guessed = known * (p->jobs - p->finished - 1) / (p->finished + 1);
    progress_report(p->sink, "amend", (p->work_finished + done) * p->unit,
                    (known + guessed) * p->unit);
}

/* ---- what is asked for --------------------------------------------------------------------- */

static int check_encryption(const struct amendment *a, struct img_error *err)
{
    for (size_t i = 0; i < a->options->count; i++) {
        const struct option_item *item = &a->options->items[i];
        if (!item->text || strncmp(item->desc->name, "encrypt.", 8) != 0)
            continue;
        if (a->q->header.crypt_method == CRYPT_NONE)
            return img_fail(err, EINVAL, "Can't amend encryption options - encryption not present");
        if (a->q->header.crypt_method != CRYPT_LUKS)
            return img_fail(err, ENOTSUP, "Only LUKS encryption options can be amended");
        return img_fail(err, ENOTSUP,
                        "Changing the keys of an encrypted image is not supported (option '%s')",
                        item->desc->name);
    }
    return 0;
}

static int read_version(struct amendment *a, struct img_error *err)
{
    const char *compat = options_text(a->options, "compat");
    a->version = a->old_version = a->q->header.version;
    if (!compat)
        return 0;
    if (!strcmp(compat, "0.10") || !strcmp(compat, "v2"))
        a->version = 2;
    else if (!strcmp(compat, "1.1") || !strcmp(compat, "v3"))
        a->version = 3;
    else
        return img_fail(err, EINVAL, "Unknown compatibility level %s", compat);
    return 0;
}

static int read_data_file(struct amendment *a, struct img_error *err)
{
    const struct option_set *o = a->options;
    bool raw = a->q->header.autoclear & AUTOCLEAR_DATA_FILE_RAW;
    a->data_raw = options_given(o, "data_file_raw") ? options_on(o, "data_file_raw") : raw;
    if (options_given(o, "data_file") && !a->q->geometry.external_data)
        return img_fail(err, EINVAL,
                        "data-file can only be set for images that use an external data file");
    if (a->data_raw && !raw)
        return img_fail(err, EINVAL, "data-file-raw cannot be set on existing images");
    return 0;
}

static int read_refcounts(struct amendment *a, struct img_error *err)
{
    const struct option_set *o = a->options;
    bool lazy = a->q->header.compatible & COMPAT_LAZY_REFCOUNTS;
    a->lazy = options_given(o, "lazy_refcounts") ? options_on(o, "lazy_refcounts") : lazy;
    a->order = a->q->header.refcount_order;
    if (!options_given(o, "refcount_bits"))
        return 0;
    uint64_t bits = options_number(o, "refcount_bits", 0);
    if (!bits || bits > 64 || !is_aligned(bits, bits))
        return img_fail(err, EINVAL,
                        "Refcount width must be a power of two and may not exceed 64 bits");
    a->order = (unsigned)__builtin_ctzll(bits);
    return 0;
}

static int read_options(struct amendment *a, struct img_error *err)
{
    int ret = check_encryption(a, err);
    if (!ret)
        ret = read_version(a, err);
    if (!ret)
        ret = read_data_file(a, err);
    if (!ret)
        ret = read_refcounts(a, err);
    a->progress.sink = &a->request->progress;
    a->progress.unit = a->q->geometry.cluster_size;
    a->progress.jobs = (a->version != a->old_version) + (a->order != a->q->header.refcount_order);
    return ret;
}

/* ---- the steps ----------------------------------------------------------------------------- */

static void upgrade(struct amendment *a)
{
    amend_progress_next(&a->progress);
    for (unsigned i = 0; i <= 2; i++)
        amend_progress_report(&a->progress, i, 2);
    a->t.header.version = 3;
}

/* In version 2, a snapshot may do without the size of its disk. */
static int complete_snapshots(struct amendment *a, struct img_error *err)
{
    bool complete = true;
    for (size_t i = 0; i < a->q->snapshot_count; i++)
        complete &= a->q->snapshots[i].has_disk_size;
    return complete ? 0 : tx_replace_snapshots(&a->t, NULL, err);
}

static int change_refcount_bits(struct amendment *a, struct img_error *err)
{
    if (a->version < 3 && a->order != 4)
        return img_fail(err, EINVAL,
                        "Refcount widths other than 16 bits require compatibility level 1.1 or "
                        "above (use compat=1.1 or greater)");
    amend_progress_next(&a->progress);
    int ret = refcounts_change_order(&a->t.refs, a->order, amend_progress_report, &a->progress,
                                     err);
    a->t.header.refcount_order = a->order;
    return ret;
}

static bool differ(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) != 0 : a != b;
}

/* They may be given, as they are. */
static int check_backing(const struct amendment *a, struct img_error *err)
{
    const char *file = options_text(a->options, "backing_file");
    const char *format = options_text(a->options, "backing_fmt");
    if ((!file && !format) ||
        (!differ(file, a->layer->backing_name) && !differ(format, a->layer->backing_format)))
        return 0;
    int ret = img_fail(err, EINVAL, "Cannot amend the backing file");
    img_hint(err, "You can use 'qemu-img rebase' instead.");
    return ret;
}

static int change_lazy_refcounts(struct amendment *a, struct img_error *err)
{
    bool lazy = a->q->header.compatible & COMPAT_LAZY_REFCOUNTS;
    if (a->lazy && !lazy && a->version < 3)
        return img_fail(err, EINVAL,
                        "Lazy refcounts only supported with compatibility level 1.1 and above "
                        "(use compat=1.1 or greater)");
    a->t.header.compatible &= ~(uint64_t)COMPAT_LAZY_REFCOUNTS;
    a->t.header.compatible |= a->lazy ? COMPAT_LAZY_REFCOUNTS : 0;
    return 0;
}

/* The image may do without a name for its data file; this handle has that file open. */
static void change_data_file(struct amendment *a)
{
    const char *name = options_text(a->options, "data_file");
    a->t.header.autoclear &= ~(uint64_t)AUTOCLEAR_DATA_FILE_RAW;
    a->t.header.autoclear |= a->data_raw ? AUTOCLEAR_DATA_FILE_RAW : 0;
    if (!name)
        return;
    a->t.parts.data_file = *name ? name : NULL;
    a->layer->data_file_given = true;
}

/* Everything but the size and what makes the image older. */
static int first_step(struct amendment *a, struct img_error *err)
{
    int ret = 0;
    a->t.parts_changed = true;
    a->t.header.size = a->layer->size;
    if (!(a->t.header.autoclear & AUTOCLEAR_BITMAPS)) /* of bitmaps that say nothing any more */
        a->t.parts.ext.has_bitmaps = false;
    if (a->version > a->old_version)
        upgrade(a);
    if (a->order != a->q->header.refcount_order) /* before any refcount changes */
        ret = change_refcount_bits(a, err);
    if (!ret && a->version > a->old_version)
        ret = complete_snapshots(a, err);
    if (!ret)
        ret = check_backing(a, err);
    if (!ret)
        ret = change_lazy_refcounts(a, err);
    if (!ret)
        change_data_file(a);
    return ret;
}

static int last_step(struct amendment *a, struct img_error *err)
{
    bool backed = a->request->backed || a->layer->backing_name;
    if (a->version >= a->old_version)
        return 0;
    amend_progress_next(&a->progress);
    return qcow2_downgrade(&a->t, backed, &a->progress, err);
}

/* Runs one or two steps in a transaction. */
static int run(struct amendment *a, int (*first)(struct amendment *a, struct img_error *err),
               int (*second)(struct amendment *a, struct img_error *err), struct img_error *err)
{
    int ret = tx_begin(&a->t, a->q, err);
    if (ret < 0)
        return ret;
    ret = first(a, err);
    if (!ret && second)
        ret = second(a, err);
    if (!ret)
        ret = tx_commit(&a->t, err);
    if (!ret)
        tx_go_home(&a->t, UINT64_MAX);
    tx_end(&a->t);
    return ret;
}

int qcow2_amend(struct layer *l, const struct amend_request *request, struct img_error *err)
{
    struct amendment a = {
        .layer = l, .q = l->state, .request = request, .options = request->options};
    uint64_t size = options_number(request->options, "size", 0);
    int ret = read_options(&a, err);
    if (ret < 0)
        return ret;
    if (!size)
        return run(&a, first_step, last_step, err);
    ret = run(&a, first_step, NULL, err);
    if (!ret)
        ret = request->resize(request->opaque, size, err);
    if (!ret && a.version < a.old_version)
        ret = run(&a, last_step, NULL, err);
    return ret;
}
