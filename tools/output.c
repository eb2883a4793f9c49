#include "output.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void line(struct json *j)
{
    fprintf(j->out, "\n%*s", (int)j->depth * 4, "");
}

static void begin(struct json *j, const char *key)
{
    if (j->depth) {
        if (j->filled[j->depth])
            fputc(',', j->out);
        line(j);
    }
    j->filled[j->depth] = true;
    if (key) {
        json_print_string(j->out, key);
        fputs(": ", j->out);
    }
}

void json_open(struct json *j, const char *key, char bracket)
{
    begin(j, key);
    fputc(bracket, j->out);
    j->filled[++j->depth] = false;
}

void json_close(struct json *j, char bracket)
{
    j->depth--;
    line(j);
    fputc(bracket, j->out);
    if (!j->depth)
        fputc('\n', j->out);
}

void json_string(struct json *j, const char *key, const char *value)
{
    begin(j, key);
    json_print_string(j->out, value);
}

void json_number(struct json *j, const char *key, uint64_t value)
{
    begin(j, key);
    fprintf(j->out, "%" PRIu64, value);
}

void json_bool(struct json *j, const char *key, bool value)
{
    begin(j, key);
    fputs(value ? "true" : "false", j->out);
}

/* Decodes one character of UTF-8 and moves *S past it; U+FFFD for what is none. */
static uint32_t next_character(const unsigned char **s)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *p = *s;
    unsigned n = *p < 0x80 ? 1 : *p >= 0xf0 ? 4 : *p >= 0xe0 ? 3 : 2;
    uint32_t c = n == 1 ? *p : *p & (0xffu >> (n + 1));
    if (*p >= 0xf8 || (*p >= 0x80 && *p < 0xc0)) {
        ++*s;
        return 0xfffd;
    }
    for (unsigned i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            *s += i;
            return 0xfffd;
        }
        c = c << 6 | (p[i] & 0x3f);
    }
    *s += n;
    bool surrogate = c >= 0xd800 && c <= 0xdfff;
    return c < least[n] || c > 0x10ffff || surrogate ? 0xfffd : c;
}

size_t utf8_length(const char *s)
{
    const unsigned char *p = (const unsigned char *)s;
    bool replacement = p[0] == 0xef && p[1] == 0xbf && p[2] == 0xbd; /* U+FFFD itself is fine */
    if (!*p || (next_character(&p) == 0xfffd && !replacement))
        return 0;
    return (size_t)((const char *)p - s);
}

static void print_escaped(FILE *out, uint32_t c)
{
    static const char plain[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt";
    const char *at = c && c < 0x80 ? strchr(plain, (int)c) : NULL;
    if (at)
        fprintf(out, "\\%c", letter[at - plain]);
    else if (c >= 0x10000)
        fprintf(out, "\\u%04" PRIX32 "\\u%04" PRIX32, 0xd800 + ((c - 0x10000) >> 10),
                0xdc00 + ((c - 0x10000) & 0x3ff));
    else if (c < 0x20 || c >= 0x7f)
        fprintf(out, "\\u%04" PRIX32, c);
    else
        fputc((int)c, out);
}

void json_print_string(FILE *out, const char *s)
{
    const unsigned char *p = (const unsigned char *)s;
    fputc('"', out);
    while (*p) {
        const unsigned char *plain = p;
        while (*p >= 0x20 && *p < 0x7f && *p != '"' && *p != '\\')
            p++;
        fwrite(plain, 1, (size_t)(p - plain), out);
        if (*p)
            print_escaped(out, next_character(&p));
    }
    fputc('"', out);
}

/* Bytes of the control character at P (ASCII, DEL, or U+0080..U+009F in UTF-8); 0: it is none. */
static unsigned control_length(const unsigned char *p)
{
    if (*p < 0x20 || *p == 0x7f)
        return 1;
    return p[0] == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0 ? 2 : 0;
}

char *printable(const char *s)
{
    size_t room = strlen(s) + 1;
    for (const unsigned char *p = (const unsigned char *)s; *p; p++)
        room += 3ul * control_length(p); /* "\x1b" for a byte, twice for two */
    char *out = malloc(room), *to = out;
    if (!out)
        return NULL;
    for (const unsigned char *p = (const unsigned char *)s; *p; p++) {
        unsigned n = control_length(p);
        if (!n)
            *to++ = (char)*p;
        else if (*p == '\n')
            to += sprintf(to, "\\n");
        else
            to += sprintf(to, "\\x%02x", *p);
        if (n == 2)
            to += sprintf(to, "\\x%02x", *++p);
    }
    *to = 0;
    return out;
}

const char *human_size(uint64_t size, char buf[32])
{
    static const char *const units[] = {"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"};
    int exponent;
    /* the next unit begins at 1000 of the last, so that three digits always do */
    frexp((double)size / (1000.0 / 1024.0), &exponent);
    int i = size ? (exponent - 1) / 10 : 0;
    i = i < 0 ? 0 : i;
    snprintf(buf, 32, "%0.3g %sB", (double)size / (double)(1ull << (i * 10)), units[i]);
    return buf;
}

FILE *output_start(struct output *o)
{
    o->text = NULL;
    o->stream = open_memstream(&o->text, &o->length);
    return o->stream;
}

int output_finish(struct output *o, bool success)
{
    int failed = fclose(o->stream) != 0;
    if (!failed && success)
        failed = fwrite(o->text, 1, o->length, stdout) != o->length || fflush(stdout) != 0;
    free(o->text);
    return failed;
}
