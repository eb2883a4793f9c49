/*
 * The commands that need libguestfs: imgtool-mount does them, a program beside this one, or in
 * libexec where that is installed, so that all other commands start without libguestfs.
 */
#include "commands.h"
#include "tool.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HELPER "imgtool-mount"

static void run_helper(const char *folder, const char *below, char **argv)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/%s%s", folder, below, HELPER);
    if (n > 0 && (size_t)n < sizeof path)
        execv(path, argv);
    else
        errno = ENAMETOOLONG;
}

int cmd_guest(struct tool *tool, int argc, char **argv)
{
    char self[PATH_MAX];
    if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
        tool_help(tool);
        return 0;
    }
    char **words = calloc((size_t)argc + 2, sizeof *words);
    if (!words)
        return tool_error(tool, "Out of memory");
    words[0] = (char *)(uintptr_t)tool->program;
    memcpy(words + 1, argv, ((size_t)argc + 1) * sizeof *argv);
    words[1] = (char *)(uintptr_t)tool->command;
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    errno = ENOENT;
    if (length > 0) {
        self[length] = '\0';
        char *slash = strrchr(self, '/');
        *(slash ? slash : self) = '\0';
        run_helper(self, "", words);
        if (errno == ENOENT)
            run_helper(self, "../libexec/imgtool/", words);
    }
    free(words);
    if (errno != ENOENT)
        return tool_error(tool, "Could not run '%s': %s", HELPER, strerror(errno));
    return tool_error(tool,
                      "'%s' needs the program '%s', which is not installed: 'make' builds it where "
                      "libguestfs is (Debian: apt-get install libguestfs-dev)",
                      tool->command, HELPER);
}
