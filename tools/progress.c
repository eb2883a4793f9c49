#include "progress.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static volatile sig_atomic_t asked;

static void note(int number)
{
    (void)number;
    asked = 1;
}

/* json[:FD] */
static int take_json(struct tool *tool, struct progress *p, const char *value)
{
    const char *number = value[4] ? value + 5 : "2";
    char *end;
    errno = 0;
    long fd = strtol(number, &end, 10);
    if (errno || *end || *number < '0' || *number > '9' || fd > INT32_MAX)
        return tool_error(tool, "--progress=json expects a file descriptor, not '%s'", number);
    int flags = fcntl((int)fd, F_GETFL);
    if (flags < 0)
        return tool_error(tool, "--progress=json: file descriptor %ld is not open", fd);
    if ((flags & O_ACCMODE) == O_RDONLY)
        return tool_error(tool, "--progress=json: file descriptor %ld is not open for writing", fd);
    p->json = true;
    p->fd = (int)fd;
    return 0;
}

int progress_option(struct tool *tool, struct progress *p, const char *value)
{
    if (!value) {
        p->text = true;
        return 0;
    }
    if (tool->as_qemu) { /* getopt's words */
        fprintf(stderr, "%s %s: option '--progress' doesn't allow an argument\n", tool->program,
                tool->command);
        return tool_point_to_help(tool);
    }
    if (strcmp(value, "json") && strncmp(value, "json:", 5))
        return tool_usage_error(tool, "--progress expects 'json' or 'json:FD', not '%s'", value);
    return take_json(tool, p, value);
}

int progress_start(struct tool *tool, struct progress *p, bool quiet)
{
    p->text &= !quiet;
    struct sigaction action = {.sa_handler = note, .sa_flags = SA_RESTART};
    sigfillset(&action.sa_mask);
    sigaction(SIGUSR1, &action, NULL);
    if (p->json && progress_json_start(&p->lines, p->fd, tool->command) < 0) {
        p->json = false;
        return tool_error(tool, "--progress=json: %s", strerror(errno));
    }
    return 0;
}

static void show(const struct progress *p)
{
    if (!p->text)
        return;
    printf("    (%3.2f/100%%)\r", (double)p->now);
    fflush(stdout);
}

/* Steps of less than one per cent are not worth a line; computed as qemu-img does, so that the
 * roundings are its own, too. */
void progress_update(void *opaque, const char *phase, uint64_t done, uint64_t total)
{
    struct progress *p = opaque;
    p->begun = true;
    float now = total ? 100.f * (float)done / (float)total : 100.f;
    p->now = now > 100 ? 100 : now;
    if (p->now > p->shown + 1 || p->now < p->shown - 1 || p->now == 100 || p->now == 0) {
        p->shown = p->now;
        show(p);
    }
    if (asked) {
        asked = 0;
        fprintf(stderr, "    (%3.2f/100%%)\n", (double)p->now);
        fflush(stderr);
    }
    if (p->json)
        progress_json_update(&p->lines, phase, done, total);
}

void progress_zeroing(struct progress *p, const char *device, enum img_zeroing how)
{
    static const char *const words[] = {"they are written", "the device writes them",
                                        "the device unmaps them"};
    static const char *const names[] = {"write", "device", "unmap"};
    if (p->text)
        printf("zeroes on %s: %s\n", device, words[how]);
    if (p->json)
        progress_json_zeroing(&p->lines, device, names[how]);
}

void progress_give_up(struct progress *p)
{
    p->now = 100;
    if (p->begun)
        show(p);
}

void progress_end(struct progress *p, int code)
{
    if (p->text)
        putchar('\n');
    if (p->json)
        progress_json_end(&p->lines, code == 0);
    p->text = p->json = false;
}
