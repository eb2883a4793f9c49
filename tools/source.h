/* The options that say which image a command looks at: the same for all that look at one. */
#ifndef TOOLS_SOURCE_H
#define TOOLS_SOURCE_H

#include "tool.h"

enum { SOURCE_IMAGE_OPTS = 256, SOURCE_OBJECT, SOURCE_OUTPUT, SOURCE_OWN /* a command's own */ };

#define SOURCE_SHORT "hf:U"
#define SOURCE_LONG                                                                                \
    {"help", no_argument, 0, 'h'}, {"format", required_argument, 0, 'f'},                          \
        {"image-opts", no_argument, 0, SOURCE_IMAGE_OPTS},                                         \
        {"object", required_argument, 0, SOURCE_OBJECT}, {"force-share", no_argument, 0, 'U'},     \
    {                                                                                              \
        "output", required_argument, 0, SOURCE_OUTPUT                                              \
    }

/*
 * The next option that is the command's own, SOURCE_OUTPUT among them; the others go into OPEN. -1
 * at the end, TOOL_STOP when the command is over, as from tool_getopt. Secrets (--object) are taken
 * and not needed: metadata is never encrypted, and encrypted data is refused.
 */
int source_getopt(struct tool *tool, struct img_open_options *open, int argc, char **argv,
                  const char *short_options, const struct option *long_options, int *exit_code);

/* Takes the option C into REQUEST; or complains and returns 1. */
typedef int source_take_fn(void *request, int c);

/* All options, TAKE getting the command's own; 1: the command is over, with *EXIT_CODE. */
int source_options(struct tool *tool, struct img_open_options *open, int argc, char **argv,
                   const char *short_options, const struct option *long_options,
                   source_take_fn *take, void *request, int *exit_code);

/* The image, after the options: complains (and returns 1) unless it is the one word that is left.
 */
int source_filename(struct tool *tool, const struct img_open_options *open, int argc, char **argv,
                    const char **filename);

/*
 * "ID_OR_NAME", or "snapshot.id=ID,snapshot.name=NAME" as QEMU has it, into OPEN. Complains, and
 * returns 1, when VALUE is neither. It is cut into its parts, which OPEN borrows.
 */
int source_snapshot(struct tool *tool, struct img_open_options *open, char *value);

/* Complains when OPEN says two things at once. */
int source_check(struct tool *tool, const struct img_open_options *open);

#endif
