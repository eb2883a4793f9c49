#include "option_list.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * Can LIST be joined to others by commas? Not when it begins or ends with a comma that the one
 * between would double.
 */
static bool joinable(const char *list)
{
    size_t length = strlen(list), commas = 0;
    while (commas < length && list[length - 1 - commas] == ',')
        commas++;
    return length && *list != ',' && commas % 2 == 0;
}

int option_list_add(struct tool *tool, char **all, const char *list)
{
    char *joined;
    if (!joinable(list))
        return tool_error(tool, "Invalid option list: %s", list);
    if (asprintf(&joined, "%s%s%s", *all ? *all : "", *all ? "," : "", list) < 0)
        return tool_error(tool, "out of memory");
    free(*all);
    *all = joined;
    return 0;
}

bool option_list_asks_for_help(const char *list)
{
    while (*list) {
        size_t length = strcspn(list, "=,");
        if (list[length] != '=' &&
            ((length == 4 && !strncmp(list, "help", 4)) || (length == 1 && *list == '?')))
            return true;
        list += length;
        while (*list &&
               (*list != ',' || list[1] == ',')) /* the value; doubled commas belong to it */
            list += *list == ',' ? 2 : 1;
        list += *list == ',';
    }
    return false;
}
