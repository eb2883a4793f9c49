/* rebase -u --fix-format: states the formats of backing files that a chain's images do not. */
#ifndef TOOLS_REBASE_FORMATS_H
#define TOOLS_REBASE_FORMATS_H

#include "tool.h"

struct format_request {
    struct tool *tool;
    const char *filename;
    const struct img_open_options *open;
    bool trust_raw, dry_run, json, quiet;
};

/* Returns the command's exit code. */
int rebase_fix_formats(const struct format_request *r);

#endif
