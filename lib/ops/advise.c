/* Advice on an image: the list of checks, and how the facts for them come together. */
#include "lib/ops/advise.h"
#include "lib/image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const struct check {
    const char *id;
    void (*judge)(struct advise_finding *f, const struct advise_facts *x);
} checks[] = {
    {"cluster-size", advise_cluster_size},     {"preallocation", advise_preallocated},
    {"lazy-refcounts", advise_lazy_refcounts}, {"compat", advise_compat},
    {"backing-format", advise_backing_format}, {"backing-path", advise_backing_path},
    {"chain-depth", advise_chain_depth},       {"refcount-width", advise_refcount_width},
    {"fragmentation", advise_fragmentation},   {"sparse", advise_sparse},
    {"end-of-file", advise_end_of_file},       {"nocow", advise_nocow},
    {"nfs-options", advise_nfs_options},       {"io-scheduler", advise_io_scheduler},
};

enum { CHECKS = sizeof checks / sizeof *checks };

/* Each table is looked at once. */
enum { TABLES_KEPT = 1 << 20 };

/* ---- facts ---- */

static void clear_facts(struct advise_facts *x)
{
    img_chain_info_free(&x->chain);
    free(x->chain_error);
    free(x->tables.error);
    advise_host_clear(&x->host);
}

/* Keeps what ERR says as a fact, and forgets the error; running out of memory stays one. */
static int keep_reason(char **reason, struct img_error *reason_err, struct img_error *err)
{
    *reason = strdup(img_error_message(reason_err));
    img_error_clear(reason_err);
    return *reason ? 0 : img_fail_nomem(err);
}

/*
 * The image's own layer, with its tables where these can be had; an encrypted image, or one without
 * its data file, only for what its header says.
 */
static int open_top(struct img **img, struct advise_facts *x, const char *filename,
                    const struct img_open_options *given, struct img_error *err)
{
    struct img_open_options options = *given;
    struct img_error why = IMG_ERROR_INIT;
    options.flags |= IMG_OPEN_NO_BACKING;
    if (img_open(img, filename, &options, &why) == 0)
        return 0;
    int ret = keep_reason(&x->tables.error, &why, err);
    options.flags |= IMG_OPEN_NO_DATA;
    return ret < 0 ? ret : img_open(img, filename, &options, err);
}

static int read_chain(struct advise_facts *x, const char *filename,
                      const struct img_open_options *options, struct img_error *err)
{
    struct img_error why = IMG_ERROR_INIT;
    int ret = img_chain_info(&x->chain, filename, options, &why);
    if (ret < 0 && x->chain.count)
        return keep_reason(&x->chain_error, &why, err);
    if (ret < 0 && err) { /* with its hint and context */
        img_error_clear(err);
        *err = why;
    } else {
        img_error_clear(&why);
    }
    return ret;
}

static int read_tables(struct advise_facts *x, struct img *img, struct img_error *err)
{
    struct img_error why = IMG_ERROR_INIT;
    if (x->tables.error)
        return 0;
    int ret = advise_tables_read(&x->tables, img, &x->host.layout, &why);
    return ret < 0 ? keep_reason(&x->tables.error, &why, err) : 0;
}

static void read_data_end(struct advise_facts *x, const struct file *f)
{
    struct stat st;
    if (f->fd < 0 || fstat(f->fd, &st) < 0)
        return;
    x->file_regular = S_ISREG(st.st_mode);
    x->file_length = (uint64_t)st.st_size;
    x->data_end_known = x->file_regular &&
                        advise_data_end(f->fd, x->tables.end, x->file_length, &x->data_end);
    /* "data up to the end" from a file system that calls everything data says nothing */
    if (!x->host.layout.holes_known && x->data_end > x->tables.end)
        x->data_end_known = false;
}

static int gather(struct advise_facts *x, struct img *img, struct img_error *err)
{
    struct layer *top = img->layers[0];
    const struct file *data = top->data_file ? top->data_file : top->file;
    top->cache_bytes = TABLES_KEPT;
    x->path = top->file->name;
    x->raw_window = !top->cluster_size && (top->raw_offset || top->raw_size != UINT64_MAX);
    x->host.path = strdup(data->name);
    if (!x->host.path)
        return img_fail_nomem(err);
    if (data->fd >= 0)
        advise_host_read(&x->host, data->fd);
    int ret = read_tables(x, img, err);
    read_data_end(x, top->file);
    return ret;
}

/* ---- findings ---- */

void img_advice_report_free(struct img_advice_report *report)
{
    if (!report)
        return;
    for (size_t i = 0; i < report->count; i++) {
        free(report->items[i].found);
        free(report->items[i].why);
        free(report->items[i].fix);
    }
    free(report->items);
    free(report->filename);
    free(report);
}

const char *img_advice_state_name(enum img_advice_state state)
{
    static const char *const names[] = {"ok", "advised", "not-applicable", "unknown"};
    return names[state];
}

static int judge_one(struct img_advice *out, const struct check *check,
                     const struct advise_facts *x, struct img_error *err)
{
    struct advise_finding f = {.out = {.check = check->id}};
    check->judge(&f, x);
    *out = f.out;
    return f.nomem || !out->found || !out->why ? img_fail_nomem(err) : 0;
}

static int judge(struct img_advice_report *r, const struct advise_facts *x, struct img_error *err)
{
    r->filename = strdup(advise_top(x)->filename);
    r->format = advise_top(x)->format;
    r->items = calloc(CHECKS, sizeof *r->items);
    if (!r->filename || !r->items)
        return img_fail_nomem(err);
    int ret = 0;
    for (size_t i = 0; i < CHECKS && !ret; i++) {
        ret = judge_one(&r->items[i], &checks[i], x, err);
        r->advised += r->items[i].state == IMG_ADVICE_ADVISED;
        r->count++;
    }
    return ret;
}

int img_advise(struct img_advice_report **report, const char *filename,
               const struct img_advise_options *given, struct img_error *err)
{
    static const struct img_open_options no_options;
    struct img_open_options options = given && given->open ? *given->open : no_options;
    struct advise_facts x = {.use = given ? given->use : IMG_USE_GENERAL,
                             .program = given && given->program ? given->program : "imgtool"};
    struct img *img = NULL;
    /* which parts of it are opened is for the checks to say */
    options.flags &= ~(unsigned)(IMG_OPEN_NO_DATA | IMG_OPEN_NO_BACKING | IMG_OPEN_CHECK);
    options.warn = NULL; /* what would be warned of is among the findings */
    int ret = read_chain(&x, filename, &options, err);
    if (!ret)
        ret = open_top(&img, &x, filename, &options, err);
    if (!ret)
        ret = gather(&x, img, err);
    struct img_advice_report *r = ret ? NULL : calloc(1, sizeof *r);
    if (!ret)
        ret = r ? judge(r, &x, err) : img_fail_nomem(err);
    clear_facts(&x);
    img_close(img);
    if (ret < 0)
        img_advice_report_free(r);
    else
        *report = r;
    return ret;
}
