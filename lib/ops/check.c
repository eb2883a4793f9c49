/* Checking one image: the format looks, this counts and hands on what it finds. */
#include "lib/check.h"
#include "lib/checked.h"
#include "lib/image.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

/* Findings that are put in words; all others are only counted. */
enum { MAX_TOLD = 1 << 18 };

const char *img_finding_kind_name(enum img_finding_kind kind)
{
    static const char *const names[] = {
        [IMG_FINDING_LEAK] = "leak",
        [IMG_FINDING_REFCOUNT_TOO_LOW] = "refcount-too-low",
        [IMG_FINDING_REFCOUNT_OVERFLOW] = "refcount-overflow",
        [IMG_FINDING_REFCOUNT_BLOCK] = "refcount-block",
        [IMG_FINDING_COPIED_FLAG] = "copied-flag",
        [IMG_FINDING_OUTSIDE] = "outside-file",
        [IMG_FINDING_UNALIGNED] = "unaligned",
        [IMG_FINDING_RESERVED_BITS] = "reserved-bits",
        [IMG_FINDING_INVALID_ENTRY] = "invalid-entry",
        [IMG_FINDING_OVERLAP] = "overlap",
        [IMG_FINDING_SHARED_TABLE] = "shared-table",
        [IMG_FINDING_SNAPSHOT] = "snapshot",
        [IMG_FINDING_BITMAP] = "bitmap",
        [IMG_FINDING_ENCRYPTION] = "encryption",
        [IMG_FINDING_UNREADABLE] = "unreadable",
    };
    return (unsigned)kind < sizeof names / sizeof *names ? names[kind] : "unknown";
}

const char *img_severity_name(enum img_severity severity)
{
    static const char *const names[] = {
        [IMG_SEVERITY_LEAK] = "leak",           [IMG_SEVERITY_CORRUPTION] = "corruption",
        [IMG_SEVERITY_UNCHECKED] = "unchecked", [IMG_SEVERITY_NOTE] = "note",
        [IMG_SEVERITY_REPAIRED] = "repaired",
    };
    return (unsigned)severity < sizeof names / sizeof *names ? names[severity] : "unknown";
}

void check_count(struct check_report *r, enum img_severity severity, uint64_t count)
{
    if (severity == IMG_SEVERITY_LEAK)
        r->result->leaks += count;
    else if (severity == IMG_SEVERITY_CORRUPTION)
        r->result->corruptions += count;
    else if (severity == IMG_SEVERITY_UNCHECKED)
        r->result->check_errors += count;
    r->result->untold += count;
}

bool check_tells(const struct check_report *r)
{
    return r->fn && r->result->told < MAX_TOLD;
}

void check_tell(struct check_report *r, const struct check_subject *s, const char *fmt, ...)
{
    char what[4096];
    check_count(r, s->severity, 1);
    r->result->unseen_by_qemu += s->unseen && s->severity == IMG_SEVERITY_CORRUPTION;
    if (!check_tells(r))
        return;
    r->result->told++;
    r->result->untold--;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    struct img_finding finding = {
        .kind = s->kind,
        .severity = s->severity,
        .what = what,
        .host_offset = s->host,
        .has_guest_offset = s->has_guest,
        .guest_offset = s->guest,
        .unseen_by_qemu = s->unseen,
    };
    r->fn(r->opaque, &finding);
}

void check_progress(struct check_report *r)
{
    if (r->total)
        progress_report(r->progress, "check", min_u64(r->done, r->total), r->total);
}

int img_check(struct img *img, struct img_check *result,
              void (*fn)(void *opaque, const struct img_finding *finding), void *opaque,
              struct img_error *err)
{
    struct layer *l = img->layers[0];
    struct check_report report = {
        .result = result, .fn = fn, .opaque = opaque, .progress = &img->progress};
    *result = (struct img_check){0};
    if (!l->driver->check)
        return img_fail(err, ENOTSUP, "This image format does not support checks");
    if (!(img->flags & IMG_OPEN_CHECK))
        return img_fail(err, EINVAL, "The image was not opened to be checked");
    int ret = l->driver->check(l, &report, err);
    if (!ret)
        progress_report(&img->progress, "check", report.total, report.total);
    return ret;
}
