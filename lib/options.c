#include "lib/options.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct option_item *find(const struct option_set *o, const char *name)
{
    for (size_t i = 0; i < o->count; i++)
        if (!strcmp(o->items[i].desc->name, name))
            return (struct option_item *)&o->items[i];
    return NULL;
}

void options_add(struct option_set *o, const struct option_desc *table)
{
    for (; table && table->name && o->count < OPTIONS_MAX; table++)
        if (!find(o, table->name))
            o->items[o->count++] = (struct option_item){.desc = table};
}

void options_init(struct option_set *o, const struct option_desc *first,
                  const struct option_desc *second)
{
    *o = (struct option_set){.count = 0};
    options_add(o, first);
    options_add(o, second);
}

void options_clear(struct option_set *o)
{
    for (size_t i = 0; i < o->count; i++)
        free(o->items[i].text);
    *o = (struct option_set){.count = 0};
}

static int parse_bool(const char *name, const char *text, uint64_t *out, struct img_error *err)
{
    static const char *const words[2][4] = {{"off", "no", "false", "n"},
                                            {"on", "yes", "true", "y"}};
    for (unsigned on = 0; on < 2; on++)
        for (unsigned i = 0; i < 4; i++)
            if (!strcmp(text, words[on][i])) {
                *out = on;
                return 0;
            }
    return img_fail(err, EINVAL, "Parameter '%s' expects 'on' or 'off'", name);
}

static int parse_number(const char *name, const char *text, uint64_t *out, struct img_error *err)
{
    char *end;
    errno = 0;
    *out = strtoull(text, &end, 0);
    if (end == text || *end)
        return img_fail(err, EINVAL, "Parameter '%s' expects a number", name);
    if (errno)
        return img_fail(err, ERANGE, "Value '%s' is too large for parameter '%s'", text, name);
    return 0;
}

static int parse_size(const char *name, const char *text, uint64_t *out, struct img_error *err)
{
    int ret = img_parse_size(text, out);
    if (ret == -ERANGE)
        return img_fail(err, ERANGE, "Value '%s' is out of range for parameter '%s'", text, name);
    if (ret < 0) {
        ret = img_fail(err, EINVAL, "Parameter '%s' expects a non-negative number below 2^64",
                       name);
        img_hint(err, "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
                      "and exabytes, respectively.");
    }
    return ret;
}

static int parse_value(const struct option_desc *d, const char *text, uint64_t *out,
                       struct img_error *err)
{
    switch (d->type) {
    case OPTION_BOOL:
        return parse_bool(d->name, text, out, err);
    case OPTION_NUMBER:
        return parse_number(d->name, text, out, err);
    case OPTION_SIZE:
        return parse_size(d->name, text, out, err);
    default:
        *out = 0;
        return 0;
    }
}

int options_put(struct option_set *o, const char *name, const char *value, struct img_error *err)
{
    struct option_item *item = find(o, name);
    uint64_t number;
    if (!item)
        return img_fail(err, EINVAL, "Invalid parameter '%s'", name);
    int ret = parse_value(item->desc, value, &number, err);
    if (ret < 0)
        return ret;
    char *text = strdup(value);
    if (!text)
        return img_fail_nomem(err);
    free(item->text);
    item->text = text;
    item->number = number;
    return 0;
}

int options_put_number(struct option_set *o, const char *name, uint64_t value,
                       struct img_error *err)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, value);
    return options_put(o, name, text, err);
}

/* Copies the value at P up to the next single comma, undoing doubled ones; returns where it ends.
 */
static const char *copy_value(const char *p, char *value)
{
    while (*p && (*p != ',' || p[1] == ',')) {
        p += *p == ',';
        *value++ = *p++;
    }
    *value = 0;
    return p;
}

/* One item at *P, which moves past it. NAME and VALUE have room for the whole list. */
static void next_option(const char **p, char *name, char *value)
{
    size_t length = strcspn(*p, "=,");
    memcpy(name, *p, length);
    name[length] = 0;
    *p += length;
    if (**p == '=') {
        *p = copy_value(*p + 1, value);
    } else if (!strncmp(name, "no", 2)) {
        memmove(name, name + 2, length - 1);
        memcpy(value, "off", sizeof "off");
    } else {
        memcpy(value, "on", sizeof "on");
    }
    *p += **p == ',';
}

int options_parse(struct option_set *o, const char *list, struct img_error *err)
{
    size_t room = strlen(list) + sizeof "off";
    char *name = malloc(room), *value = malloc(room);
    int ret = name && value ? 0 : img_fail_nomem(err);
    while (!ret && *list) {
        next_option(&list, name, value);
        if (strcmp(name, "id")) /* a name for the list itself, of no use here */
            ret = options_put(o, name, value, err);
    }
    free(name);
    free(value);
    return ret;
}

bool options_know(const struct option_set *o, const char *name)
{
    return find(o, name) != NULL;
}

bool options_given(const struct option_set *o, const char *name)
{
    const struct option_item *item = find(o, name);
    return item && item->text;
}

const char *options_text(const struct option_set *o, const char *name)
{
    const struct option_item *item = find(o, name);
    if (!item)
        return NULL;
    return item->text ? item->text : item->desc->value;
}

uint64_t options_number(const struct option_set *o, const char *name, uint64_t fallback)
{
    const struct option_item *item = find(o, name);
    uint64_t number;
    if (!item)
        return fallback;
    if (item->text)
        return item->number;
    if (!item->desc->value || parse_value(item->desc, item->desc->value, &number, NULL) < 0)
        return fallback;
    return number;
}

bool options_on(const struct option_set *o, const char *name)
{
    return options_number(o, name, 0);
}

static void print_value(FILE *out, const struct option_item *item)
{
    const char *text = item->text ? item->text : item->desc->value;
    bool number = item->desc->type == OPTION_NUMBER || item->desc->type == OPTION_SIZE;
    if (number && item->text) {
        fprintf(out, "%" PRId64, (int64_t)item->number); /* signed, as qemu-img shows it */
        return;
    }
    for (; *text; text++) {
        if (*text == ',' && item->desc->type == OPTION_STRING)
            putc(',', out);
        putc(*text, out);
    }
}

static char *finish(FILE *out, char **text)
{
    if (fclose(out) == 0)
        return *text;
    free(*text);
    return NULL;
}

char *options_summary(const struct option_set *o)
{
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);
    const char *separator = "";
    if (!out)
        return NULL;
    for (size_t i = 0; i < o->count; i++) {
        const struct option_item *item = &o->items[i];
        if (!item->text && !item->desc->value)
            continue;
        fprintf(out, "%s%s=", separator, item->desc->name);
        print_value(out, item);
        separator = " ";
    }
    return finish(out, &text);
}

static int by_name(const void *a, const void *b)
{
    const struct option_desc *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

char *options_help(const struct option_set *o)
{
    static const char *const types[] = {"str", "bool (on/off)", "num", "size"};
    enum { COLUMN = 24 };
    const struct option_desc *sorted[OPTIONS_MAX];
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);
    if (!out)
        return NULL;
    for (size_t i = 0; i < o->count; i++)
        sorted[i] = o->items[i].desc;
    qsort(sorted, o->count, sizeof *sorted, by_name);
    for (size_t i = 0; i < o->count; i++) {
        const struct option_desc *d = sorted[i];
        int n = fprintf(out, "  %s=<%s>", d->name, types[d->type]);
        fprintf(out, "%*s - %s\n", n < COLUMN ? COLUMN - n : 0, "", d->help);
    }
    return finish(out, &text);
}
