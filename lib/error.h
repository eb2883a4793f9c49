/* Setting struct img_error: the callee words it once, each level above may prefix. */
#ifndef LIB_ERROR_H
#define LIB_ERROR_H

#include "lib/imgtool.h"

#include <errno.h>

/* Sets ERR (unless NULL). */
void img_error_set(struct img_error *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The same, and is -CODE: a macro, so that a reader of the code, man or machine, sees a failure. */
#define img_fail(err, code, ...) (img_error_set((err), (code), __VA_ARGS__), -(code))

/* The same, with ": " and strerror(CODE) appended. */
int img_fail_errno(struct img_error *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts words in front of the message that is there; returns RET, for use in a return. */
int img_prefix(struct img_error *err, int ret, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Says what to do about the error that is there. */
void img_hint(struct img_error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Adds what QEMU's words leave out: the field's value, who named the file. Parts join with "; ". */
void img_context(struct img_error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* QEMU's words, MESSAGE, and the value behind them. */
#define img_fail_detail(err, code, message, ...)                                                   \
    (img_error_set((err), (code), "%s", (message)), img_context((err), __VA_ARGS__), -(code))

#define img_fail_nomem(err) img_fail((err), ENOMEM, "Out of memory")

#endif
