/* The words of findings: sizes, quoting, and the conversion that changes one thing of an image. */
#include "lib/error.h"
#include "lib/ops/advise.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static char *append(char *old, const char *fmt, va_list ap)
{
    char *text, *joined;
    if (vasprintf(&text, fmt, ap) < 0)
        return NULL;
    if (!old)
        return text;
    if (asprintf(&joined, "%s%s", old, text) < 0)
        joined = NULL;
    free(text);
    if (joined)
        free(old);
    return joined;
}

static void put(struct advise_finding *f, char **field, const char *fmt, va_list ap)
{
    char *text = append(*field, fmt, ap);
    if (text)
        *field = text;
    else
        f->nomem = true;
}

void advise_found(struct advise_finding *f, enum img_advice_state state, const char *fmt, ...)
{
    va_list ap;
    f->out.state = state;
    va_start(ap, fmt);
    put(f, &f->out.found, fmt, ap);
    va_end(ap);
}

void advise_why(struct advise_finding *f, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    put(f, &f->out.why, fmt, ap);
    va_end(ap);
}

void advise_fix(struct advise_finding *f, char *command)
{
    free(f->out.fix);
    f->out.fix = command;
}

const char *advise_size(uint64_t size, char buf[32])
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    unsigned i = 0;
    double v = (double)size;
    while (v >= 1000 && i + 1 < sizeof units / sizeof *units) {
        v /= 1024;
        i++;
    }
    snprintf(buf, 32, "%.3g %s", v, units[i]);
    return buf;
}

/* ---- command lines ---- */

static bool is_plain(const char *s)
{
    if (!*s)
        return false;
    for (; *s; s++)
        if (!isalnum((unsigned char)*s) && !strchr("%+,-./:=@_", *s))
            return false;
    return true;
}

static bool has_control(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            return true;
    return false;
}

char *advise_quote(const char *s)
{
    if (is_plain(s))
        return strdup(s);
    /* at most four characters for one, the quotes, the end */
    char *out = malloc(strlen(s) * 4 + 4), *p = out;
    if (!out)
        return NULL;
    bool control = has_control(s);
    p += sprintf(p, control ? "$'" : "'");
    for (; *s; s++) {
        if (control && ((unsigned char)*s < 0x20 || *s == 0x7f))
            p += sprintf(p, "\\%03o", (unsigned char)*s);
        else if (control && (*s == '\'' || *s == '\\'))
            p += sprintf(p, "\\%c", *s);
        else if (*s == '\'')
            p += sprintf(p, "'\\''");
        else
            *p++ = *s;
    }
    *p++ = '\'';
    *p = 0;
    return out;
}

char *advise_quote_path(const char *path, const char *suffix)
{
    bool option = *path == '-';
    bool protocol = path[strcspn(path, ":/")] == ':';
    char *whole;
    if (asprintf(&whole, "%s%s%s", option || protocol ? "./" : "", path, suffix) < 0)
        return NULL;
    char *quoted = advise_quote(whole);
    free(whole);
    return quoted;
}

/* What the old image has and a new one would not get by itself. */
static void write_options(FILE *out, const struct advise_facts *x, const struct advise_change *c)
{
    const struct img_info *top = advise_top(x);
    const struct img_qcow2_info *q = &top->qcow2;
    uint64_t cluster = c->cluster_size ? c->cluster_size : top->cluster_size;
    enum advise_preallocation now = advise_preallocation_of(x);
    const char *prealloc = c->preallocation;
    /* "full" would only write twice what the conversion writes anyway */
    if (!prealloc && now > ADVISE_PREALLOC_OFF)
        prealloc = now == ADVISE_PREALLOC_METADATA ? "metadata" : "falloc";
    if (top->is_qcow2) {
        if (q->version == 2 && !c->extended_l2)
            fprintf(out, ",compat=0.10");
        if (cluster < 1024)
            fprintf(out, ",cluster_size=%" PRIu64, cluster);
        else if (cluster != 64 << 10)
            fprintf(out, ",cluster_size=%" PRIu64 "k", cluster / 1024);
        if (q->extended_l2 || c->extended_l2)
            fprintf(out, ",extended_l2=on");
        if (q->lazy_refcounts)
            fprintf(out, ",lazy_refcounts=on");
        if (q->refcount_bits != 16)
            fprintf(out, ",refcount_bits=%u", q->refcount_bits);
        if (q->compression_type && strcmp(q->compression_type, "zlib"))
            fprintf(out, ",compression_type=%s", q->compression_type);
    }
    if (prealloc && !top->backing_filename)
        fprintf(out, ",preallocation=%s", prealloc);
}

static const char *backing_format(const struct advise_facts *x)
{
    const struct img_info *top = advise_top(x);
    if (top->backing_format && *top->backing_format)
        return top->backing_format;
    return x->chain.count > 1 ? x->chain.layers[1]->format : NULL;
}

const char *advise_no_convert(const struct advise_facts *x)
{
    const struct img_info *top = advise_top(x);
    if (top->encrypted)
        return "A conversion of an encrypted image needs its key.";
    if (top->is_qcow2 && top->qcow2.has_data_file)
        return "A conversion of an image with an external data file needs a name for the new one.";
    if (top->snapshot_count)
        return "A conversion would lose the image's internal snapshots.";
    if (top->backing_filename && !backing_format(x))
        return "A conversion needs the format of the backing file.";
    return x->raw_window ? "The image is only a part of its file." : NULL;
}

char *advise_convert(const struct advise_facts *x, const struct advise_change *c)
{
    const struct img_info *top = advise_top(x);
    if (advise_no_convert(x))
        return NULL;
    char *options = NULL, *text = NULL;
    size_t size;
    FILE *out = open_memstream(&options, &size);
    if (!out)
        return NULL;
    write_options(out, x, c);
    bool failed = fclose(out) != 0;
    char *quoted = failed ? NULL : advise_quote(*options ? options + 1 : options);
    char *from = advise_quote_path(x->path, ""), *to = advise_quote_path(x->path, ".new");
    char *backing = advise_quote(top->backing_filename ? top->backing_filename : "");
    out = open_memstream(&text, &size);
    failed |= !out || !quoted || !from || !to || !backing;
    if (!failed) {
        bool compressed = x->tables.compressed > x->tables.placed && !c->preallocation;
        fprintf(out, "%s convert -f %s -O %s", x->program, top->format, top->format);
        fprintf(out, "%s%s", compressed ? " -c" : "", top->qcow2.bitmap_count ? " --bitmaps" : "");
        fprintf(out, "%s%s", *options ? " -o " : "", *options ? quoted : "");
        if (top->backing_filename)
            fprintf(out, " -B %s -F %s", backing, backing_format(x));
        fprintf(out, " %s %s && mv %s %s", from, to, to, from);
    }
    failed |= out && fclose(out) != 0;
    if (failed) {
        free(text);
        text = NULL;
    }
    free(options);
    free(quoted);
    free(from);
    free(to);
    free(backing);
    return text;
}
