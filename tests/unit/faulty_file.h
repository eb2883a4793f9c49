/*
 * A host file in memory whose calls fail when a test wants them to: the n-th pread, size or extent
 * call gives EIO, once or for good, or finds that the file has become shorter.
 *
 * Several files may share one set of faults, so that the n-th call is counted over a whole chain.
 */
#ifndef FAULTY_FILE_H
#define FAULTY_FILE_H

#include "make_qcow2.h"

enum fault {
    FAULT_ONCE,    /* EIO from one call */
    FAULT_LASTING, /* EIO from it and all that follow */
    FAULT_CUT,     /* from then on the file ends within what that call asked for */
};

struct faults {
    enum fault fault;
    long countdown; /* calls until it happens; 0: never */
    long calls;     /* so far */
    bool happened;
    char message[200]; /* what the library must say of the call that failed last */
    struct file *file; /* whose call it was */
    uint64_t cut;      /* where that file now ends, after FAULT_CUT */
};

/* Opens SIZE bytes at DATA, which are borrowed like FAULTS and NAME. Blocks of 4096 bytes that hold
 * nothing but zeroes are holes. */
struct file *faulty_open(struct faults *faults, const char *name, const void *data, size_t size);

/* The N-th call from now on fails. */
void faults_arm(struct faults *faults, enum fault fault, long n);
/* All is well again. */
void faults_heal(struct faults *faults);

#endif
