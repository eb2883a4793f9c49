/* A guest's disk inside libguestfs's appliance: one start for all that a command does. */
#ifndef TOOLS_MOUNT_GUEST_H
#define TOOLS_MOUNT_GUEST_H

#include "../tool.h"

#include <guestfs.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum { GUEST_LIST_MAX = 64 };

/* What the command line says about the disk. */
struct guest_request {
    struct img_open_options open;
    const char *filename;
    bool writable;
    const char *mounts[GUEST_LIST_MAX]; /* DEV[:DIR]; none: what inspection finds */
    size_t mount_count;
    const char *keys[GUEST_LIST_MAX]; /* FD or FILE */
    size_t key_count;
};

struct guest {
    struct tool *tool;
    guestfs_h *g;
    struct img *img; /* holds the reader's locks; NULL when the appliance holds the writer's */
    struct img_filesystems *volumes; /* NULL: not looked for, as nothing needs them */
    char *path;                      /* absolute */
    bool changes;                    /* something of it is mounted so that it can be changed */
    char *folder;                    /* temporary files of ours, or NULL */
    int watchdog;  /* the end of a pipe; closed without a word, it ends the appliance */
    pid_t watcher; /* who waits at the other end */
    pid_t appliance;
};

/*
 * Options that all of these commands have: handles C when it is one of them, and returns 1; -1 when
 * its value is wrong, and it has complained; 0 when it is none of them.
 */
#define GUEST_LONG                                                                                 \
    {"help", no_argument, 0, 'h'}, {"format", required_argument, 0, 'f'},                          \
        {"snapshot", required_argument, 0, GUEST_SNAPSHOT},                                        \
    {                                                                                              \
        "key", required_argument, 0, GUEST_KEY                                                     \
    }
#define GUEST_MOUNT_LONG                                                                           \
    {"inspect", no_argument, 0, 'i'},                                                              \
    {                                                                                              \
        "mount", required_argument, 0, 'm'                                                         \
    }
enum { GUEST_KEY = 256, GUEST_SNAPSHOT, GUEST_OUTPUT, GUEST_OWN };
int guest_option(struct tool *tool, struct guest_request *r, int c, const char *value);

/* All below complain and return 1 when they fail. */

/* Opens the disk as REQUEST says, checks and locks it, and starts the appliance with it. */
int guest_start(struct tool *tool, struct guest *guest, const struct guest_request *request);

/* Opens what is encrypted, and mounts what REQUEST says. */
int guest_mount(struct guest *guest, const struct guest_request *request);

/* The first alone. Without a key, one is asked for, or what is encrypted is left alone. */
enum unlock_need { UNLOCK_ALL, UNLOCK_OR_WARN, UNLOCK_IF_KEYS };
int guest_unlock(struct guest *guest, const struct guest_request *request, enum unlock_need need);

/* Flushes, ends the appliance and waits for that; 1 when something may not be on disk. */
int guest_end(struct guest *guest);

/* Says what libguestfs said last. */
int guest_error(const struct guest *guest, const char *what, ...)
    __attribute__((format(printf, 2, 3)));

/* Starts and ends in one: with the guest's file systems mounted, runs FN. */
int guest_run(struct tool *tool, const struct guest_request *request,
              int (*fn)(struct guest *guest, void *opaque), void *opaque);

/* *MARK is "corrupt" or "dirty" where the image is marked so, else NULL. 0 or -errno. */
int guest_mark(struct img *img, const char **mark, struct img_error *err);

/* Mounts what the fstab of the operating system ROOT says, below the root that must be there. */
int guest_mount_root(struct guest *guest, const struct guest_request *request, const char *root);

/* Frees a list of strings from libguestfs. */
void guest_list_free(char **list);

#endif
