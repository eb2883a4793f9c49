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

#endif
