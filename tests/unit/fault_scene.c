#include "fault_scene.h"
#include "lib/checked.h"

#include <inttypes.h>
#include <stdio.h>

enum {
    CHUNK = 5003,           /* reads of odd lengths, which begin anywhere */
    SMALL_READS = 20000,    /* how much of an extent is read by chunks */
    LARGE_READ = 256 << 10, /* and at once */
};

static const char *const step_names[] = {"describe", "tables", "map", "read", "check"};

/* ---- what is asked ------------------------------------------------------------------------ */

struct text {
    FILE *out;
    char *data;
    size_t size;
};

static void text_begin(struct text *t)
{
    t->out = open_memstream(&t->data, &t->size);
    assert_non_null(t->out);
}

static char *text_end(struct text *t)
{
    assert_int_equal(fclose(t->out), 0);
    return t->data;
}

static int describe(struct scene *s, struct img *img, FILE *out, struct img_error *err)
{
    for (unsigned i = 0; i < s->layers; i++) {
        struct img_info *info = NULL;
        int ret = img_describe(img, i, &info, err);
        if (ret < 0)
            return ret;
        fprintf(out, "%s %s %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", info->filename, info->format,
                info->virtual_size, info->cluster_size, info->file_length);
        for (size_t k = 0; k < info->snapshot_count; k++)
            fprintf(out, "snapshot %s %s %" PRIu64 "\n", info->snapshots[k].id,
                    info->snapshots[k].name, info->snapshots[k].disk_size);
        for (size_t k = 0; k < info->qcow2.bitmap_count; k++)
            fprintf(out, "bitmap %s\n", info->qcow2.bitmaps[k].name);
        if (info->encrypted)
            fprintf(out, "luks %s %s\n", info->encryption.uuid, info->encryption.cipher_alg);
        img_info_free(info);
    }
    return 0;
}

static int tables(struct scene *s, struct img *img, FILE *out, struct img_error *err)
{
    for (unsigned i = 0; i < s->layers; i++) {
        struct layer *l = img->layers[i];
        struct layer_tables t = {0};
        int ret = l->driver->tables ? l->driver->tables(l, &t, err) : 0;
        if (ret < 0)
            return ret;
        fprintf(out, "%" PRIu64 "\n", t.l2_bytes);
    }
    return 0;
}

struct mapping {
    struct scene *scene; /* NULL: only print */
    FILE *out;
};

static int add_extent(void *opaque, const struct img_extent *e)
{
    struct mapping *m = opaque;
    fprintf(m->out, "%" PRIu64 "+%" PRIu64 " %d depth %u%s", e->start, e->length, e->kind, e->depth,
            e->reads_zero ? " zero" : "");
    if (e->has_offset)
        fprintf(m->out, " %s:%" PRIu64, e->filename, e->offset);
    fprintf(m->out, "\n");
    if (m->scene) {
        struct scene *s = m->scene;
        s->extents = realloc(s->extents, (s->extent_count + 1) * sizeof *s->extents);
        assert_non_null(s->extents);
        s->extents[s->extent_count] = *e;
        if (e->has_offset) { /* the name goes with the handle */
            for (unsigned i = 0; i < SCENE_FILES; i++)
                if (s->file_names[i] && !strcmp(s->file_names[i], e->filename))
                    s->extents[s->extent_count].filename = s->file_names[i];
        }
        s->extent_count++;
    }
    return 0;
}

/* After FAULT_CUT, what lies past the new end may read as zeroes: a file may end within a cluster.
 */
static bool was_cut_off(const struct scene *s, const struct img_extent *e, uint64_t at)
{
    const struct faults *x = &s->faults;
    return x->happened && x->fault == FAULT_CUT && e->kind == IMG_EXTENT_DATA && e->filename &&
           !strcmp(e->filename, x->file->name) && e->offset + at >= x->cut;
}

/* N bytes at AT of extent I. */
static int read_piece(struct scene *s, struct img *img, size_t i, uint64_t at, size_t n,
                      struct img_error *err)
{
    const struct img_extent *e = &s->extents[i];
    const uint8_t *wanted = s->bytes[i] + at;
    uint8_t *buf = malloc(n); /* exactly, so that a sanitizer sees a byte too many */
    assert_non_null(buf);
    memset(buf, 0xcc, n);
    int ret = img_read(img, buf, n, e->start + at, err);
    if (!ret && memcmp(buf, wanted, n))
        for (size_t k = 0; k < n; k++)
            if (buf[k] != wanted[k] && (buf[k] || !was_cut_off(s, e, at + k)))
                fail_msg("%s: wrong data at %" PRIu64 ": %#x, not %#x", s->name, e->start + at + k,
                         buf[k], wanted[k]);
    free(buf);
    return ret;
}

/* The beginning of each extent, by parts and at once. */
static int read_all(struct scene *s, struct img *img, struct img_error *err)
{
    for (size_t i = 0; i < s->extent_count; i++) {
        const struct img_extent *e = &s->extents[i];
        uint64_t small = min_u64(e->length, SMALL_READS), n;
        int ret = 0;
        for (uint64_t at = 0; at < small && !ret; at += n) {
            n = min_u64(CHUNK, small - at);
            ret = read_piece(s, img, i, at, n, err);
        }
        if (!ret)
            ret = read_piece(s, img, i, 0, min_u64(e->length, LARGE_READ), err);
        if (ret < 0)
            return ret;
    }
    return 0;
}

static void add_finding(void *opaque, const struct img_finding *f)
{
    fprintf(opaque, "%s %s: %s\n", img_severity_name(f->severity), img_finding_kind_name(f->kind),
            f->what);
}

static int check(struct img *img, FILE *out, struct img_error *err)
{
    struct img_check c;
    int ret = img_check(img, &c, add_finding, out, err);
    fprintf(out,
            "%" PRIu64 " corruptions, %" PRIu64 " leaks, %" PRIu64 " errors, end %" PRIu64 "\n",
            c.corruptions, c.leaks, c.check_errors, c.image_end_offset);
    return ret;
}

static int take_step(struct scene *s, enum step step, struct img *img, char **answer,
                     struct img_error *err)
{
    struct text t;
    text_begin(&t);
    struct mapping m = {s->answers[MAP] ? NULL : s, t.out};
    int ret = 0;
    switch (step) {
    case DESCRIBE:
        ret = describe(s, img, t.out, err);
        break;
    case TABLES:
        ret = tables(s, img, t.out, err);
        break;
    case MAP:
        ret = img_map(img, 0, UINT64_MAX, add_extent, &m, err);
        break;
    case READ:
        ret = read_all(s, img, err);
        break;
    case CHECK:
        ret = check(img, t.out, err);
        break;
    case STEPS:
        break;
    }
    *answer = text_end(&t);
    return ret;
}

/* ---- opening ------------------------------------------------------------------------------ */

static struct file *open_file(struct scene *s, unsigned i)
{
    return faulty_open(&s->faults, s->file_names[i], s->files[i].data, s->files[i].size);
}

/* The formats are found out by looking, as for a file that a user names. */
static int open_scene(struct scene *s, struct img **out, unsigned flags, struct img_error *err)
{
    struct img *img = calloc(1, sizeof *img);
    assert_non_null(img);
    img->layers = calloc(SCENE_LAYERS, sizeof *img->layers);
    assert_non_null(img->layers);
    flags |= flags & IMG_OPEN_CHECK ? IMG_OPEN_NO_DATA : 0;
    img->flags = flags;
    int ret = 0;
    for (unsigned i = 0; i < s->layers && !ret; i++) {
        struct layer *l = NULL;
        ret = layer_open_file(&l, open_file(s, i), NULL, flags, err);
        if (!ret)
            img->layers[img->depth++] = l;
    }
    if (!ret && s->data_file)
        img->layers[0]->data_file = open_file(s, s->layers);
    if (ret < 0)
        img_close(img);
    else
        *out = img;
    return ret;
}

/* ---- one run ------------------------------------------------------------------------------ */

static void expect_named(struct scene *s, const char *doing, int ret, struct img_error *err)
{
    const char *message = img_error_message(err);
    if (!s->faults.happened)
        fail_msg("%s: %s fails by itself: %s", s->name, doing, message);
    assert_true(ret < 0);
    assert_int_equal(err->code, -ret);
    assert_non_null(err->message);
    assert_null(strchr(message, '\n'));
    if (s->faults.fault == FAULT_CUT) {
        assert_true(strlen(message) > 10);
    } else if (err->code != EIO || !strstr(message, s->faults.message)) {
        fail_msg("%s: %s says '%s' (%d), not '...%s'", s->name, doing, message, err->code,
                 s->faults.message);
    }
    img_error_clear(err);
}

/* A check may go on without what it could not read, when it says so and draws no conclusions. */
static void expect_answer(const struct scene *s, enum step step, const char *answer)
{
    bool said = step == CHECK && s->faults.happened && !strncmp(answer, "unchecked ", 10) &&
                !strstr(answer, "\ncorruption ") && !strstr(answer, "\nleak ");
    if (!said && strcmp(answer, s->answers[step]))
        fail_msg("%s: %s says\n%swhere it should say\n%safter '%s'", s->name, step_names[step],
                 answer, s->answers[step], s->faults.message);
}

/* Takes STEP once more, when all is well: nothing of a call that failed may have been kept. */
static void step_again(struct scene *s, enum step step, struct img *img)
{
    struct img_error err = IMG_ERROR_INIT;
    char *answer = NULL;
    faults_heal(&s->faults);
    if (take_step(s, step, img, &answer, &err))
        fail_msg("%s: %s fails again: %s", s->name, step_names[step], img_error_message(&err));
    expect_answer(s, step, answer);
    free(answer);
}

/* OPENED_CUT: the file was cut short while it was being opened, so the image may be another one. */
static void try_step(struct scene *s, enum step step, struct img *img, bool opened_cut)
{
    struct img_error err = IMG_ERROR_INIT;
    char *answer = NULL;
    int ret = take_step(s, step, img, &answer, &err);
    if (ret)
        expect_named(s, step_names[step], ret, &err);
    else if (!s->faults.happened || s->faults.fault != FAULT_CUT)
        expect_answer(s, step, answer);
    assert_int_equal(err.code, 0);
    free(answer);
    if (s->faults.happened && !opened_cut)
        step_again(s, step, img);
}

/* Everything with the N-th call failing. False: there was no N-th call. */
static bool run(struct scene *s, enum fault fault, long n, unsigned flags)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img *img = NULL;
    faults_arm(&s->faults, fault, n);
    int ret = open_scene(s, &img, flags, &err);
    if (ret < 0) {
        expect_named(s, "open", ret, &err);
        faults_heal(&s->faults);
        return true;
    }
    bool opened_cut = s->faults.happened, happened = opened_cut;
    if (opened_cut && fault != FAULT_CUT)
        fail_msg("%s: opens in spite of '%s'", s->name, s->faults.message);
    for (enum step step = 0; step < STEPS; step++) {
        if (!s->steps[step] || (step == CHECK) != !!(flags & IMG_OPEN_CHECK))
            continue;
        try_step(s, step, img, opened_cut);
        happened |= !s->faults.countdown; /* healed */
    }
    img_close(img);
    faults_heal(&s->faults);
    return happened;
}

static int learn_bytes(struct scene *s, struct img *img, struct img_error *err)
{
    int ret = 0;
    s->bytes = calloc(s->extent_count, sizeof *s->bytes);
    assert_non_null(s->bytes);
    for (size_t i = 0; i < s->extent_count && !ret; i++) {
        size_t n = min_u64(s->extents[i].length, LARGE_READ);
        s->bytes[i] = malloc(n);
        assert_non_null(s->bytes[i]);
        ret = img_read(img, s->bytes[i], n, s->extents[i].start, err);
    }
    return ret;
}

/* What it says when all goes well. */
static void learn(struct scene *s)
{
    struct img_error err = IMG_ERROR_INIT;
    for (enum step step = 0; step < STEPS; step++) {
        struct img *img = NULL;
        if (!s->steps[step])
            continue;
        int ret = open_scene(s, &img, step == CHECK ? IMG_OPEN_CHECK : s->flags, &err);
        if (ret < 0)
            fail_msg("%s: %s", s->name, img_error_message(&err));
        if (step == READ) {
            ret = learn_bytes(s, img, &err);
        } else {
            ret = take_step(s, step, img, &s->answers[step], &err);
        }
        if (ret)
            fail_msg("%s: %s", s->name, img_error_message(&err));
        if (step == READ)
            s->answers[READ] = strdup("");
        img_close(img);
    }
    if (s->steps[CHECK])
        if (memcmp(s->answers[CHECK], "0 corruptions, 0 leaks, 0 errors", 32))
            fail_msg("%s", s->answers[CHECK]);
}

static void release(struct scene *s)
{
    for (unsigned i = 0; i < SCENE_FILES; i++)
        image_free(&s->files[i]);
    for (unsigned i = 0; i < STEPS; i++)
        free(s->answers[i]);
    for (size_t i = 0; s->bytes && i < s->extent_count; i++)
        free(s->bytes[i]);
    free(s->extents);
    free(s->bytes);
}

void scene_try(struct scene *s)
{
    learn(s);
    for (enum fault fault = FAULT_ONCE; fault <= FAULT_CUT; fault++) {
        long n = 1, failures = 0, checks = 1;
        for (; run(s, fault, n, s->flags); n++)
            failures++;
        if (s->steps[CHECK])
            while (run(s, fault, checks, s->flags | IMG_OPEN_CHECK))
                checks++;
        assert_true(n > 5);
        print_message("%s, fault %d: %ld calls, %ld to check\n", s->name, fault, n - 1, checks - 1);
    }
    release(s);
}

struct scene scene_new(const char *name, struct image top)
{
    return (struct scene){.name = name,
                          .layers = 1,
                          .files = {top},
                          .file_names = {"top.qcow2"},
                          .flags = IMG_OPEN_NO_BACKING,
                          .steps = {true, true, true, true, true}};
}
