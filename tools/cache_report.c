/* What advise-cache says in words and in JSON. */
#include "cache_output.h"
#include "output.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static uint64_t both(const struct img_cache_sizes *s)
{
    return s->l2_cache_size + s->refcount_cache_size;
}

static bool applies(const struct img_cache_advice *a)
{
    return a->verdict != IMG_CACHE_NOT_APPLICABLE;
}

static const char *verdict_name(const struct img_cache_advice *a)
{
    static const char *const names[] = {"keep-default", "set", "not-applicable"};
    return names[a->verdict];
}

uint64_t cache_total(const struct cache_image *image)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < image->survey.count; i++)
        sum += both(&image->advice[i].advised);
    return sum;
}

/* ---- JSON ---- */

static void json_default(struct json *j, const struct cache_request *r,
                         const struct img_cache_sizes *s)
{
    json_open(j, "default", '{');
    json_string(j, "qemu-version", r->version_text);
    json_number(j, "l2-cache-size", s->l2_cache_size);
    json_number(j, "coverage", s->coverage);
    json_bool(j, "covers-disk", s->covers_disk);
    json_close(j, '}');
}

static void json_layer(struct json *j, const struct cache_request *r,
                       const struct img_cache_layer *layer, const struct img_cache_advice *a)
{
    json_open(j, NULL, '{');
    json_string(j, "filename", layer->info->filename);
    json_string(j, "format", layer->info->format);
    json_number(j, "virtual-size", layer->info->virtual_size);
    if (applies(a)) {
        json_number(j, "cluster-size", layer->facts.cluster_size);
        json_bool(j, "extended-l2", layer->facts.extended_l2);
        json_number(j, "l2-cache-size", a->advised.l2_cache_size);
        json_number(j, "l2-cache-entry-size", a->advised.l2_entry_size);
        json_number(j, "refcount-cache-size", a->advised.refcount_cache_size);
        json_number(j, "cache-size", both(&a->advised));
        if (r->has_budget) {
            json_number(j, "coverage", a->advised.coverage);
            json_bool(j, "covers-disk", a->advised.covers_disk);
        }
        json_number(j, "l2-allocated", layer->facts.l2_allocated);
        json_default(j, r, &a->taken);
    }
    json_string(j, "verdict", verdict_name(a));
    json_close(j, '}');
}

static void json_image(struct json *j, const struct cache_request *r,
                       const struct cache_image *image)
{
    if (r->whole_chain) {
        json_open(j, NULL, '{');
        json_string(j, "filename", image->survey.layers[0].info->filename);
        json_open(j, "layers", '[');
    }
    for (size_t i = 0; i < image->survey.count; i++)
        json_layer(j, r, &image->survey.layers[i], &image->advice[i]);
    if (r->whole_chain) {
        json_close(j, ']');
        json_number(j, "total-cache-size", cache_total(image));
        json_close(j, '}');
    }
}

void cache_print_json(FILE *out, const struct cache_request *r, const struct cache_image *images,
                      size_t count, bool listed)
{
    struct json j = {.out = out};
    if (listed)
        json_open(&j, NULL, '[');
    for (size_t i = 0; i < count; i++)
        json_image(&j, r, &images[i]);
    if (listed)
        json_close(&j, ']');
}

/* ---- words ---- */

static void print_bytes(FILE *out, uint64_t bytes)
{
    char size[32];
    fprintf(out, "%s (%" PRIu64 " bytes)", human_size(bytes, size), bytes);
}

static void print_coverage(FILE *out, const struct img_cache_sizes *s, uint64_t disk)
{
    char part[32], whole[32];
    if (s->covers_disk) {
        fputs("maps the whole disk", out);
        return;
    }
    unsigned percent = (unsigned)((double)s->coverage * 100 / (double)disk);
    fprintf(out, "maps %s of %s (", human_size(s->coverage, part), human_size(disk, whole));
    if (percent)
        fprintf(out, "%u%%)", percent);
    else
        fputs("less than 1%)", out);
}

/* Whose default it is. */
static void print_qemu(FILE *out, const struct cache_request *r)
{
    bool stated = strcmp(r->version_text, "newest") != 0;
    fprintf(out, "QEMU%s%s", stated ? " " : "", stated ? r->version_text : "");
}

static void say_too_small(FILE *out, const struct cache_request *r,
                          const struct img_cache_layer *layer, const struct img_cache_advice *a)
{
    char size[32];
    uint64_t today = layer->facts.l2_allocated;
    fputs("set, because the default of ", out);
    print_qemu(out, r);
    fputc(' ', out);
    print_coverage(out, &a->taken, layer->facts.virtual_size);
    fputs(", and random I/O on more than that reads L2 tables from the file again and again", out);
    if (!today)
        fputs("; the image has no L2 tables yet, so that it will matter as it fills", out);
    else if (today <= a->taken.l2_cache_size)
        fprintf(out,
                "; the %s of L2 tables that it has today still fit, so that it will matter as "
                "it fills",
                human_size(today, size));
}

static void say_refcounts(FILE *out, const struct img_cache_layer *layer,
                          const struct img_cache_advice *a)
{
    char advised[32], taken[32];
    fprintf(out,
            "set, because with %zu internal snapshot%s QEMU goes through %s of refcounts, and "
            "the default holds %s of them (its L2 cache maps the whole disk)",
            layer->facts.snapshots, layer->facts.snapshots == 1 ? "" : "s",
            human_size(a->advised.refcount_cache_size, advised),
            human_size(a->taken.refcount_cache_size, taken));
}

/* The sentence: whether to change anything, and why. */
static void say_why(FILE *out, const struct cache_request *r, const struct img_cache_layer *layer,
                    const struct img_cache_advice *a)
{
    switch (a->reason) {
    case IMG_CACHE_COVERED:
        fputs("keep the default, because it maps the whole disk and more would gain nothing", out);
        break;
    case IMG_CACHE_TOO_SMALL:
        say_too_small(out, r, layer, a);
        break;
    case IMG_CACHE_REFCOUNTS:
        say_refcounts(out, layer, a);
        break;
    case IMG_CACHE_SHARED:
        fprintf(out, "%s, because this is the image's share of the budget, which ",
                a->verdict == IMG_CACHE_SET ? "set" : "keep the default");
        print_coverage(out, &a->advised, layer->facts.virtual_size);
        break;
    case IMG_CACHE_NO_TABLES:
        fprintf(out, "not applicable, because a %s image has no tables to cache",
                layer->info->format);
        break;
    }
    if (a->l2_by_sum)
        fputs("; this QEMU cuts l2-cache-size down to less, so give cache-size and "
              "refcount-cache-size",
              out);
    fputs(".\n", out);
}

static void print_name(FILE *out, const char *name)
{
    char *text = printable(name);
    fputs(text ? text : "?", out);
    free(text);
}

/* A line of "label: size", with what the caller adds and ends. */
static void print_size(FILE *out, const char *label, uint64_t bytes)
{
    fprintf(out, "%-21s", label);
    print_bytes(out, bytes);
}

static void print_sizes(FILE *out, const struct cache_request *r,
                        const struct img_cache_layer *layer, const struct img_cache_advice *a)
{
    uint64_t disk = layer->facts.virtual_size;
    print_size(out, "cluster size:", layer->facts.cluster_size);
    fputs(layer->facts.extended_l2 ? ", extended L2 entries\n" : "\n", out);
    print_size(out, "L2 cache:", a->advised.l2_cache_size);
    fputs(", ", out);
    print_coverage(out, &a->advised, disk);
    fputc('\n', out);
    print_size(out, "L2 cache entry:", a->advised.l2_entry_size);
    fputc('\n', out);
    print_size(out, "refcount cache:", a->advised.refcount_cache_size);
    fputc('\n', out);
    print_size(out, "both (cache-size):", both(&a->advised));
    fputc('\n', out);
    print_size(out, "L2 tables today:", layer->facts.l2_allocated);
    fputc('\n', out);
    print_size(out, "L2 cache by default:", a->taken.l2_cache_size);
    fputs(", ", out);
    print_coverage(out, &a->taken, disk);
    fputs(" (", out);
    print_qemu(out, r);
    fputs(")\n", out);
}

static void print_image(FILE *out, const struct cache_request *r, const struct cache_image *image)
{
    const struct img_cache_layer *layer = &image->survey.layers[0];
    fprintf(out, "%-21s", "image:");
    print_name(out, layer->info->filename);
    fprintf(out, "\n%-21s%s\n", "file format:", layer->info->format);
    print_size(out, "virtual size:", layer->info->virtual_size);
    fputc('\n', out);
    if (applies(&image->advice[0]))
        print_sizes(out, r, layer, &image->advice[0]);
    fprintf(out, "%-21s", "advice:");
    say_why(out, r, layer, &image->advice[0]);
}

static void print_row(FILE *out, size_t number, const struct img_cache_layer *layer,
                      const struct img_cache_advice *a)
{
    char disk[32], cluster[32] = "-", l2[32] = "-", refcount[32] = "-", sum[32] = "-";
    char today[32] = "-", taken[32] = "-";
    human_size(layer->info->virtual_size, disk);
    if (applies(a)) {
        human_size(layer->facts.cluster_size, cluster);
        human_size(a->advised.l2_cache_size, l2);
        human_size(a->advised.refcount_cache_size, refcount);
        human_size(both(&a->advised), sum);
        human_size(layer->facts.l2_allocated, today);
        human_size(a->taken.l2_cache_size, taken);
    }
    fprintf(out, "%5zu  %9s  %8s  %9s  %9s  %9s  %9s  %9s  %-14s  ", number, disk, cluster, l2,
            refcount, sum, today, taken, verdict_name(a));
    print_name(out, layer->info->filename);
    fputc('\n', out);
}

static void print_chain(FILE *out, const struct cache_request *r, const struct cache_image *image)
{
    bool change = false;
    fprintf(out, "%5s  %9s  %8s  %9s  %9s  %9s  %9s  %9s  %-14s  %s\n", "LAYER", "DISK", "CLUSTER",
            "L2 CACHE", "REFCOUNT", "BOTH", "L2 TODAY", "DEFAULT", "VERDICT", "FILE");
    for (size_t i = 0; i < image->survey.count; i++)
        print_row(out, i, &image->survey.layers[i], &image->advice[i]);
    fputs("total: ", out);
    print_bytes(out, cache_total(image));
    fputc('\n', out);
    for (size_t i = 0; i < image->survey.count; i++) {
        if (image->advice[i].verdict != IMG_CACHE_SET)
            continue;
        change = true;
        fprintf(out, "layer %zu: ", i);
        say_why(out, r, &image->survey.layers[i], &image->advice[i]);
    }
    if (!change)
        fputs("all layers: keep the default, because more would gain nothing.\n", out);
}

void cache_print_human(FILE *out, const struct cache_request *r, const struct cache_image *images,
                       size_t count)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        if (i)
            fputc('\n', out);
        if (r->whole_chain)
            print_chain(out, r, &images[i]);
        else
            print_image(out, r, &images[i]);
        sum += cache_total(&images[i]);
    }
    if (count > 1 || r->has_budget) {
        fputs(count ? "\nall images together: " : "", out);
        print_bytes(out, sum);
        if (r->has_budget) {
            fputs(" of a budget of ", out);
            print_bytes(out, r->budget);
        }
        fputc('\n', out);
    }
}
