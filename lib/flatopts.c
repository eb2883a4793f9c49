#include "lib/flatopts.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* More than any image needs: a hostile name holds at most 1,023 bytes anyway. */
enum { MAX_OPTIONS = 256, MAX_DEPTH = 32, MAX_KEY = 1024 };

int flat_options_add(struct flat_options *o, const char *key, const char *value,
                     struct img_error *err)
{
    if (o->count == MAX_OPTIONS)
        return img_fail(err, EINVAL, "More than %d options", MAX_OPTIONS);
    if (strlen(key) > MAX_KEY)
        return img_fail(err, EINVAL, "Option name too long (%zu characters, at most %d)",
                        strlen(key), MAX_KEY);
    struct flat_option *items = realloc(o->items, (o->count + 1) * sizeof *items);
    if (!items)
        return img_fail_nomem(err);
    o->items = items;
    struct flat_option it = {strdup(key), value ? strdup(value) : NULL};
    if (!it.key || (value && !it.value)) {
        free(it.key);
        free(it.value);
        return img_fail_nomem(err);
    }
    items[o->count++] = it;
    return 0;
}

const char *flat_options_get(const struct flat_options *o, const char *key)
{
    for (size_t i = 0; i < o->count; i++)
        if (!strcmp(o->items[i].key, key))
            return o->items[i].value;
    return NULL;
}

void flat_options_clear(struct flat_options *o)
{
    for (size_t i = 0; i < o->count; i++) {
        free(o->items[i].key);
        free(o->items[i].value);
    }
    free(o->items);
    *o = (struct flat_options){0};
}

static int flatten(struct flat_options *o, const char *prefix, struct json_object *object,
                   struct img_error *err)
{
    int ret = 0;
    struct json_object_iterator it = json_object_iter_begin(object);
    struct json_object_iterator end = json_object_iter_end(object);
    for (; !ret && !json_object_iter_equal(&it, &end); json_object_iter_next(&it)) {
        struct json_object *value = json_object_iter_peek_value(&it);
        char *key;
        if (asprintf(&key, "%s%s%s", prefix, *prefix ? "." : "", json_object_iter_peek_name(&it)) <
            0)
            return img_fail_nomem(err);
        if (json_object_is_type(value, json_type_object))
            ret = flatten(o, key, value, err);
        else if (json_object_is_type(value, json_type_array))
            ret = img_fail(err, EINVAL, "Option '%s' cannot be a list", key);
        else if (json_object_is_type(value, json_type_string) &&
                 strlen(json_object_get_string(value)) != (size_t)json_object_get_string_len(value))
            ret = img_fail(err, EINVAL, "Option '%s' holds a NUL character", key);
        else
            ret = flat_options_add(o, key, value ? json_object_get_string(value) : NULL, err);
        free(key);
    }
    return ret;
}

int flat_options_from_json(struct flat_options *o, const char *json, struct img_error *err)
{
    struct json_tokener *tok = json_tokener_new_ex(MAX_DEPTH);
    if (!tok)
        return img_fail_nomem(err);
    struct json_object *root = json_tokener_parse_ex(tok, json, -1);
    enum json_tokener_error why = json_tokener_get_error(tok);
    size_t parsed = json_tokener_get_parse_end(tok);
    int ret = 0;
    if (why == json_tokener_continue || why == json_tokener_error_parse_eof)
        ret = img_fail(err, EINVAL,
                       "Could not parse the JSON options: JSON parse error, premature "
                       "EOI");
    else if (why != json_tokener_success)
        ret = img_fail(err, EINVAL, "Could not parse the JSON options: JSON parse error, %s",
                       json_tokener_error_desc(why));
    else if (json[parsed + strspn(json + parsed, " \t\r\n")])
        ret = img_fail(err, EINVAL,
                       "Could not parse the JSON options: JSON parse error, '%s' "
                       "follows the object",
                       json + parsed);
    else if (!json_object_is_type(root, json_type_object))
        ret = img_fail(err, EINVAL, "Invalid JSON object given");
    else
        ret = flatten(o, "", root, err);
    json_object_put(root);
    json_tokener_free(tok);
    return ret;
}

/* Copies up to the next single comma, undoing doubled ones; returns where the next item starts. */
static const char *next_item(const char *p, char *item)
{
    while (*p) {
        if (*p == ',') {
            if (p[1] != ',')
                return p + 1;
            p++;
        }
        *item++ = *p++;
    }
    *item = 0;
    return p;
}

int flat_options_from_list(struct flat_options *o, const char *list, struct img_error *err)
{
    char *item = malloc(strlen(list) + 1);
    if (!item)
        return img_fail_nomem(err);
    int ret = 0;
    for (const char *p = list; *p && !ret;) {
        memset(item, 0, strlen(list) + 1);
        p = next_item(p, item);
        char *eq = strchr(item, '=');
        if (eq)
            *eq = 0;
        if (eq)
            ret = flat_options_add(o, item, eq + 1, err);
        else /* a word alone names the node, as on QEMU's command line */
            ret = flat_options_add(o, o->count ? item : "file", o->count ? "on" : item, err);
    }
    free(item);
    return ret;
}

char *flat_json_string(const char *s)
{
    struct json_object *object = json_object_new_string(s);
    if (!object)
        return NULL;
    const char *text = json_object_to_json_string_ext(object, JSON_C_TO_STRING_NOSLASHESCAPE);
    char *copy = text ? strdup(text) : NULL;
    json_object_put(object);
    return copy;
}
