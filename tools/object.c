#include "object.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const types[] = {
    "authz-list",        "authz-list-file", "authz-simple",   "main-loop",
    "pr-manager-helper", "secret",          "secret_keyring", "thread-context",
    "throttle-group",    "tls-creds-anon",  "tls-creds-psk",  "tls-creds-x509",
};

static void list_types(void)
{
    puts("List of user creatable objects:");
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        printf("  %s\n", types[i]);
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_identifier(const char *id)
{
    return is_letter(*id) &&
           id[strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._")] == 0;
}

static int check(struct tool *tool, const char *type, const char *id)
{
    bool known = false;
    if (!type || !*type)
        return tool_error(tool, "Parameter 'qom-type' is missing");
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        known |= !strcmp(types[i], type);
    if (!known)
        return tool_error(tool, "Parameter 'qom-type' does not accept value '%s'", type);
    if (!id)
        return tool_error(tool, "Parameter 'id' is missing");
    if (is_identifier(id))
        return 0;
    tool_error(tool, "Parameter 'id' expects an identifier");
    fputs("Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.\n",
          stderr);
    return 1;
}

static int check_json(struct tool *tool, const char *text)
{
    struct json_object *whole = json_tokener_parse(text), *type = NULL, *id = NULL;
    if (!whole || !json_object_is_type(whole, json_type_object)) {
        json_object_put(whole);
        return tool_error(tool, "Could not read the object '%s': it is not JSON", text);
    }
    json_object_object_get_ex(whole, "qom-type", &type);
    json_object_object_get_ex(whole, "id", &id);
    int failed = check(tool, type ? json_object_get_string(type) : NULL,
                       id ? json_object_get_string(id) : NULL);
    json_object_put(whole);
    return failed;
}

/* The first word may leave out its key. */
static int check_list(struct tool *tool, const char *text)
{
    char *copy = strdup(text), *id = NULL, *rest = copy;
    if (!copy)
        return tool_error(tool, "Out of memory");
    const char *type = text[strcspn(text, ",=")] == '=' ? NULL : copy;
    for (char *word; (word = strsep(&rest, ","));) {
        if (!strncmp(word, "qom-type=", 9))
            type = word + 9;
        else if (!strncmp(word, "id=", 3))
            id = word + 3;
    }
    int failed = check(tool, type, id);
    free(copy);
    return failed;
}

int object_check(struct tool *tool, const char *text, int *exit_code)
{
    *exit_code = strcmp(text, "help") != 0;
    if (!*exit_code) {
        list_types();
        return 1;
    }
    return *text == '{' ? check_json(tool, text) : check_list(tool, text);
}
