/* Setting struct img_error: the callee words it once, each level above may prefix. */
#ifndef LIB_ERROR_H
#define LIB_ERROR_H

#include "lib/imgtool.h"

/* Sets ERR (unless NULL) and returns -CODE. */
int img_fail(struct img_error *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The same, with ": " and strerror(CODE) appended. */
int img_fail_errno(struct img_error *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts words in front of the message that is there; returns RET, for use in a return. */
int img_prefix(struct img_error *err, int ret, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Says what to do about the error that is there. */
void img_hint(struct img_error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Says which image led here; the first that speaks, nearest to the cause, is kept. */
void img_context(struct img_error *err, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

int img_fail_nomem(struct img_error *err);

#endif
