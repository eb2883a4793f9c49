#include "lib/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *img_error_message(const struct img_error *err)
{
    if (err && err->message)
        return err->message;
    /* out of memory while wording it */
    return err && err->code ? strerror(err->code) : "no error";
}

void img_error_clear(struct img_error *err)
{
    if (!err)
        return;
    free(err->message);
    free(err->hint);
    free(err->context);
    *err = (struct img_error)IMG_ERROR_INIT;
}

static char *format(const char *fmt, va_list ap)
{
    char *s = NULL;
    return vasprintf(&s, fmt, ap) < 0 ? NULL : s;
}

/* Takes ownership of MESSAGE. */
static int set(struct img_error *err, int code, char *message)
{
    img_error_clear(err);
    err->code = code;
    err->message = message;
    return -code;
}

void img_error_set(struct img_error *err, int code, const char *fmt, ...)
{
    if (!err)
        return;
    va_list ap;
    va_start(ap, fmt);
    char *message = format(fmt, ap);
    va_end(ap);
    set(err, code, message);
}

int img_fail_errno(struct img_error *err, int code, const char *fmt, ...)
{
    if (!err)
        return -code;
    va_list ap;
    va_start(ap, fmt);
    char *what = format(fmt, ap);
    va_end(ap);
    char *message = NULL;
    if (what && asprintf(&message, "%s: %s", what, strerror(code)) < 0)
        message = NULL;
    free(what);
    return set(err, code, message);
}

int img_prefix(struct img_error *err, int ret, const char *fmt, ...)
{
    if (!err)
        return ret;
    va_list ap;
    va_start(ap, fmt);
    char *before = format(fmt, ap);
    va_end(ap);
    char *message = NULL;
    if (before && asprintf(&message, "%s%s", before, img_error_message(err)) < 0)
        message = NULL;
    free(before);
    if (message) {
        free(err->message);
        err->message = message;
    }
    return ret;
}

void img_hint(struct img_error *err, const char *fmt, ...)
{
    if (!err)
        return;
    va_list ap;
    va_start(ap, fmt);
    free(err->hint);
    err->hint = format(fmt, ap);
    va_end(ap);
}

void img_context(struct img_error *err, const char *fmt, ...)
{
    if (!err)
        return;
    va_list ap;
    va_start(ap, fmt);
    char *more = format(fmt, ap), *joined = NULL;
    va_end(ap);
    if (err->context && more && asprintf(&joined, "%s; %s", err->context, more) < 0)
        joined = NULL;
    if (!err->context) {
        err->context = more;
        return;
    }
    free(more);
    if (joined) {
        free(err->context);
        err->context = joined;
    }
}
