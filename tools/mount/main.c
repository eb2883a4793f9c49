/* imgtool-mount: the one program that is linked with libguestfs; imgtool runs it. */
#include "commands.h"
#include "guest.h"
#include "table.h"

#include <stdio.h>
#include <string.h>

#define ENTRY(name, function, summary, usage) {name, summary, usage, function},
const struct command commands[] = {GUEST_COMMANDS(ENTRY){NULL, NULL, NULL, NULL}};
#undef ENTRY

/* What was said to be there is there only once it is written. */
static int finish_output(struct tool *tool, int code)
{
    if (!fflush(stdout) && !ferror(stdout))
        return code;
    return code ? code : tool_error(tool, "Could not write the output");
}

int main(int argc, char **argv)
{
    const char *slash = argc ? strrchr(argv[0], '/') : NULL;
    struct tool tool = {.program = slash ? slash + 1 : argc ? argv[0] : "imgtool-mount"};
    if (argc < 2)
        return tool_usage_error(&tool, "Not enough arguments: this program is run by imgtool");
    for (const struct command *c = commands; c->name; c++) {
        if (strcmp(c->name, argv[1]))
            continue;
        tool.command = c->name;
        return finish_output(&tool, c->run(&tool, argc - 1, argv + 1));
    }
    return tool_usage_error(&tool, "Command not found: %s", argv[1]);
}
