/*
 * Options of a format or a host file, as people write them: "cluster_size=4k,lazy_refcounts=on". A
 * table says which there are; a set holds the values given.
 */
#ifndef LIB_OPTIONS_H
#define LIB_OPTIONS_H

#include "lib/error.h"

enum option_type { OPTION_STRING, OPTION_BOOL, OPTION_NUMBER, OPTION_SIZE };

/* A table ends with a NULL name. */
struct option_desc {
    const char *name;
    enum option_type type;
    const char *help;
    const char *value; /* when none is given; NULL: none */
};

/* Of the host file that a new image lies in, besides the format's. */
extern const struct option_desc host_options[];

enum { OPTIONS_MAX = 48 };

struct option_set {
    struct option_item {
        const struct option_desc *desc;
        char *text;      /* as given; NULL: not given */
        uint64_t number; /* what TEXT means, of a number, a size or a bool */
    } items[OPTIONS_MAX];
    size_t count;
};

/* The options of FIRST, then those of SECOND (may be NULL) that FIRST does not have. */
void options_init(struct option_set *o, const struct option_desc *first,
                  const struct option_desc *second);
/* Those of one more table (may be NULL) that O does not have. */
void options_add(struct option_set *o, const struct option_desc *table);
void options_clear(struct option_set *o);

/* "NAME=VALUE,..."; a comma in a value is doubled, NAME alone is on, noNAME off. The last one
 * counts. */
int options_parse(struct option_set *o, const char *list, struct img_error *err);
int options_put(struct option_set *o, const char *name, const char *value, struct img_error *err);
int options_put_number(struct option_set *o, const char *name, uint64_t value,
                       struct img_error *err);

/* Is there such an option; was it given? */
bool options_know(const struct option_set *o, const char *name);
bool options_given(const struct option_set *o, const char *name);

/* What was given, or what the table says; else NULL, FALLBACK, false. */
const char *options_text(const struct option_set *o, const char *name);
uint64_t options_number(const struct option_set *o, const char *name, uint64_t fallback);
bool options_on(const struct option_set *o, const char *name);

/* All values on one line, and a line for each option there is. Owned by the caller; NULL: no
 * memory. */
char *options_summary(const struct option_set *o);
char *options_help(const struct option_set *o);

#endif
