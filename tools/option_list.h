/* The lists that -o takes: "NAME=VALUE,...", any number of them. */
#ifndef TOOLS_OPTION_LIST_H
#define TOOLS_OPTION_LIST_H

#include "tool.h"

#include <stdbool.h>

/* Appends LIST to *ALL (NULL: none yet), which the caller frees. Complains, and returns 1, when it
 * cannot be appended. */
int option_list_add(struct tool *tool, char **all, const char *list);

/* Is one of the names, without a value, "help" or "?"? */
bool option_list_asks_for_help(const char *list);

#endif
