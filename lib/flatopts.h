/* A flat list of dotted keys and their values, from JSON or from a comma-separated list. */
#ifndef LIB_FLATOPTS_H
#define LIB_FLATOPTS_H

#include "lib/error.h"

struct flat_option {
    char *key;
    char *value; /* NULL: null */
};

struct flat_options {
    struct flat_option *items;
    size_t count;
};

int flat_options_from_json(struct flat_options *o, const char *json, struct img_error *err);
int flat_options_from_list(struct flat_options *o, const char *list, struct img_error *err);
int flat_options_add(struct flat_options *o, const char *key, const char *value,
                     struct img_error *err);
const char *flat_options_get(const struct flat_options *o, const char *key);
void flat_options_clear(struct flat_options *o);

/* S as a JSON string with its quotes; NULL: out of memory. Owned by the caller. */
char *flat_json_string(const char *s);

#endif
