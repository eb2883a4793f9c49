/* Starting the appliance: with KVM where that works, and ended with us, whatever happens to us. */
#ifndef TOOLS_MOUNT_LAUNCH_H
#define TOOLS_MOUNT_LAUNCH_H

#include "guest.h"

struct launch_disk {
    const char *path, *format;
    bool writable;
};

/* Starts the appliance of GUEST, with DISK (NULL: without one). Complains, and returns 1, when it
 * does not start. */
int launch(struct guest *guest, const struct launch_disk *disk);

/* Waits until the appliance, which has been told to end, has: QEMU has closed the image then. 1:
 * it did not end well. */
int launch_wait(struct guest *guest);

/* The appliance has ended: its watcher may go. */
void launch_release(struct guest *guest);

/* Seconds that the last start took here, or 0 when there was none since the machine came up. */
double launch_last_seconds(void);

/* Has KVM been found not to work, since the machine came up? */
bool launch_kvm_is_broken(void);

#endif
