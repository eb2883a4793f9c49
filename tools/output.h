/* JSON as QEMU's tools print it, and sizes and texts for people. */
#ifndef TOOLS_OUTPUT_H
#define TOOLS_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { JSON_MAX_DEPTH = 512 };

/* Four spaces a level, a member a line. Keys are NULL in arrays and at the top. */
struct json {
    FILE *out;
    unsigned depth;
    bool filled[JSON_MAX_DEPTH]; /* does the container of this level have a member yet? */
};

void json_open(struct json *j, const char *key, char bracket);
void json_close(struct json *j, char bracket);
void json_string(struct json *j, const char *key, const char *value);
void json_number(struct json *j, const char *key, uint64_t value);
void json_bool(struct json *j, const char *key, bool value);

/* A string with its quotes; all but printable ASCII is escaped, bytes that are no UTF-8 become
 * U+FFFD. */
void json_print_string(FILE *out, const char *s);

/*
 * S with control characters written out (\n, \x1b), so that a name out of an image can neither
 * forge a line of output nor steer a terminal. Owned by the caller; NULL: out of memory.
 */
char *printable(const char *s);

/* Bytes of the character of UTF-8 that S begins with; 0: it is none, or S is empty. */
size_t utf8_length(const char *s);

/* "64 KiB", "1.5 GiB": as QEMU rounds it. */
const char *human_size(uint64_t size, char buf[32]);

/*
 * Output that appears whole or not at all: everything is printed to the returned stream, and only
 * output_finish, with SUCCESS, lets it out.
 */
struct output {
    FILE *stream;
    char *text;
    size_t length;
};

FILE *output_start(struct output *o);
/* Returns 0, or 1 when the text could not be kept or written. */
int output_finish(struct output *o, bool success);

#endif
