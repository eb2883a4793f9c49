/* What a command has changed in the names that images hold, as text or JSON. */
#ifndef TOOLS_NAME_CHANGES_H
#define TOOLS_NAME_CHANGES_H

#include "output.h"
#include "tool.h"

struct name_changes {
    struct tool *tool;
    bool json, quiet, dry_run;
    struct output output;
    struct json list;
};

/* Complains, and returns 1, when there is no memory. */
int name_changes_start(struct name_changes *n);
/* For the library's "change"; OPAQUE is a struct name_changes. */
void name_changes_add(void *opaque, const struct img_name_change *c);
/* Prints them when the job SUCCEEDED. Complains, and returns 1, when that fails. */
int name_changes_finish(struct name_changes *n, const struct img_name_changes *result,
                        bool succeeded);

#endif
