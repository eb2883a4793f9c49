/* imgtool undo: an image as it was before its repair. */
#include "commands.h"
#include "interrupt.h"
#include "tool.h"

#include <inttypes.h>
#include <stdio.h>

int cmd_undo(struct tool *tool, int argc, char **argv)
{
    static const struct option options[] = {
        {"help", no_argument, 0, 'h'},
        {"quiet", no_argument, 0, 'q'},
        {0, 0, 0, 0},
    };
    struct img_error err = IMG_ERROR_INIT;
    struct img_undo_options o = {.cancelled = interrupt_wanted};
    struct img_undone done;
    bool quiet = false;
    int c, code;
    while ((c = tool_getopt(tool, argc, argv, "hq", options, &code)) != -1) {
        if (c == TOOL_STOP)
            return code;
        quiet = true;
    }
    if (optind != argc - 2)
        return tool_usage_error(tool, "Expecting an undo file and the image that it belongs to");
    interrupt_watch();
    if (img_undo(argv[optind], argv[optind + 1], &o, &done, &err) < 0) {
        interrupt_die();
        return tool_report(tool, &err);
    }
    if (!quiet)
        printf("%" PRIu64 " sectors were put back, %" PRIu64 " were as before already; the image "
               "has %" PRIu64 " bytes.\n",
               done.sectors, done.already, done.old_size);
    return fflush(stdout) ? tool_error(tool, "Could not write the output") : 0;
}
