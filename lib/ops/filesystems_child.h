/* The child of filesystems_sandbox.c. */
#ifndef LIB_OPS_FILESYSTEMS_CHILD_H
#define LIB_OPS_FILESYSTEMS_CHILD_H

#include "lib/ops/filesystems.h"

#include <sys/types.h>

/*
 * Locks itself up, looks at the disk, and ends. MEMFD is the disk; through SOCKET the parent is
 * sent the descriptor by which it hears of reads.
 */
_Noreturn void probe_child(struct probe_report *report, int memfd, int socket,
                           const struct probe_job *job, pid_t parent);

/*
 * The first of these: from then on the process can read MEMFD, which is its only descriptor, 0, and
 * have memory; whatever else it asks the kernel for fails with EPERM. Returns 0 or -errno.
 */
int probe_lock_up(int memfd, int socket, const struct probe_job *job, pid_t parent);

#endif
