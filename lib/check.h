/* How a format's check reports what it finds. */
#ifndef LIB_CHECK_H
#define LIB_CHECK_H

#include "lib/file.h"

struct check_report {
    struct img_check *result;
    void (*fn)(void *opaque, const struct img_finding *finding); /* may be NULL */
    void *opaque;
    const struct progress_sink *progress;
    uint64_t done, total; /* bytes of tables; DONE may be more where some are read again */
};

/* DONE went up: tells how far the check is. */
void check_progress(struct check_report *r);

/* What a finding is about; the words come with check_tell. */
struct check_subject {
    enum img_finding_kind kind;
    enum img_severity severity;
    uint64_t host;
    bool has_guest;
    uint64_t guest;
    bool unseen; /* by QEMU */
};

/*
 * Counts a finding, also as unseen by QEMU where it is, and hands it on, unless too many have been
 * handed on already: a file of a few kilobytes can hold millions of errors.
 */
void check_tell(struct check_report *r, const struct check_subject *s, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Is anybody still told in words? Otherwise counting is enough. */
bool check_tells(const struct check_report *r);

/* Counts COUNT findings of SEVERITY without a word. */
void check_count(struct check_report *r, enum img_severity severity, uint64_t count);

#endif
