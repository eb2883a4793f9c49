/*
 * Allocations that are counted, and fail when a test wants them to. For one source file of a test
 * program: the linker puts the functions below between the library and the C library (the
 * Makefile's UNIT_LINK), so that this works under sanitizers and valgrind too. What other libraries
 * allocate for themselves is neither counted nor failed.
 */
#ifndef ALLOC_FAULTS_H
#define ALLOC_FAULTS_H

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *p, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
void __real_free(void *p);
char *__real_strdup(const char *s);
char *__real_strndup(const char *s, size_t n);
char *__real_realpath(const char *path, char *resolved);
char *__real_getcwd(char *buf, size_t size);
FILE *__real_open_memstream(char **text, size_t *size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *p, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
void __wrap_free(void *p);
char *__wrap_strdup(const char *s);
char *__wrap_strndup(const char *s, size_t n);
char *__wrap_realpath(const char *path, char *resolved);
char *__wrap_getcwd(char *buf, size_t size);
FILE *__wrap_open_memstream(char **text, size_t *size);
int __wrap_vasprintf(char **out, const char *fmt, va_list ap);
int __wrap_asprintf(char **out, const char *fmt, ...);

static long countdown;    /* allocations until one fails; 0: none will */
static long total_so_far; /* allocations so far */
static long live;         /* blocks that were given and have not come back */

/* Must this allocation fail? */
static bool fails(void)
{
    total_so_far++;
    bool now = countdown && --countdown == 0;
    if (now)
        errno = ENOMEM;
    return now;
}

static void *given(void *p)
{
    live += p != NULL;
    return p;
}

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : given(__real_malloc(size));
}

void *__wrap_calloc(size_t count, size_t size)
{
    return fails() ? NULL : given(__real_calloc(count, size));
}

void *__wrap_realloc(void *p, size_t size)
{
    if (fails())
        return NULL;
    return p ? __real_realloc(p, size) : given(__real_malloc(size));
}

void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
    return fails() ? NULL : given(__real_aligned_alloc(alignment, size));
}

void __wrap_free(void *p)
{
    live -= p != NULL;
    __real_free(p);
}

char *__wrap_strdup(const char *s)
{
    return fails() ? NULL : given(__real_strdup(s));
}

char *__wrap_strndup(const char *s, size_t n)
{
    return fails() ? NULL : given(__real_strndup(s, n));
}

char *__wrap_realpath(const char *path, char *resolved)
{
    return fails() ? NULL : given(__real_realpath(path, resolved));
}

char *__wrap_getcwd(char *buf, size_t size)
{
    return fails() ? NULL : given(__real_getcwd(buf, size));
}

/* Its buffer is the caller's to free. */
FILE *__wrap_open_memstream(char **text, size_t *size)
{
    return fails() ? NULL : given(__real_open_memstream(text, size));
}

int __wrap_vasprintf(char **out, const char *fmt, va_list ap)
{
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, again);
    va_end(again);
    *out = __wrap_malloc((size_t)n + 1);
    return *out ? vsnprintf(*out, (size_t)n + 1, fmt, ap) : -1;
}

int __wrap_asprintf(char **out, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = __wrap_vasprintf(out, fmt, ap);
    va_end(ap);
    return n;
}

#endif
