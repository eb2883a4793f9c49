#include "judge.h"
#include "lib/checked.h"
#include "lib/file_undo.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

__attribute__((format(printf, 3, 4))) static void complain(struct verdict *v, bool *what,
                                                           const char *fmt, ...)
{
    *what = true;
    if (*v->why)
        return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(v->why, sizeof v->why, fmt, ap);
    va_end(ap);
}

/* ---- versions ----------------------------------------------------------------------------- */

static struct version *new_version(struct judge *j)
{
    j->versions = must(realloc(j->versions, (j->count + 1) * sizeof *j->versions));
    j->versions[j->count] = (struct version){0};
    return &j->versions[j->count];
}

int judge_add_version(struct judge *j, const struct disk *disks, bool atomic, struct img_error *err)
{
    struct version *v = new_version(j);
    v->atomic = atomic;
    for (unsigned i = 0; i < j->scene->files; i++)
        if (j->exact[i])
            disk_set(&v->files[i], disks[i].data, disks[i].size);
    int ret = view_take(&v->view, j->scene, disks, err);
    if (!ret)
        j->count++;
    return ret;
}

void judge_free(struct judge *j)
{
    for (unsigned i = 0; i < j->count; i++) {
        view_free(&j->versions[i].view);
        for (unsigned k = 0; k < MAX_FILES; k++)
            disk_free(&j->versions[i].files[k]);
    }
    free(j->versions);
    j->versions = NULL;
    j->count = 0;
}

/* ---- the checks --------------------------------------------------------------------------- */

int check_disks(const struct scene *s, const struct disk *disks, struct damage *d,
                struct img_error *err)
{
    struct img *img = NULL;
    struct img_check c = {0};
    int ret = scene_look(&img, s, disks, IMG_OPEN_CHECK, err);
    if (!ret)
        ret = img_check(img, &c, NULL, NULL, err);
    img_close(img);
    /* what cannot be looked at counts once: how much of it there is depends on the file's length */
    *d = (struct damage){c.corruptions + (c.check_errors != 0), c.leaks};
    return ret;
}

static void allow(struct damage *own, const struct damage *d)
{
    own->corruptions = max_u64(own->corruptions, d->corruptions);
    own->leaks = max_u64(own->leaks, d->leaks);
}

static int find_damage(const struct judge *j, const struct disk *disks, struct damage *d,
                       struct damage *by_qemu, struct img_error *err)
{
    *d = *by_qemu = (struct damage){0};
    if (!scene_has_qcow2(j->scene, disks))
        return 0;
    int ret = check_disks(j->scene, disks, d, err);
    if (!ret && j->checker) {
        checker_begin(j->checker, disks);
        ret = checker_end(j->checker, by_qemu, err);
    }
    return ret;
}

int judge_allow_own(struct judge *j, const struct disk *before, const struct disk *after,
                    struct img_error *err)
{
    int ret = find_damage(j, before, &j->own, &j->own_qemu, err);
    if (!ret)
        ret = find_damage(j, after, &j->after, &j->after_qemu, err);
    allow(&j->own, &j->after);
    allow(&j->own_qemu, &j->after_qemu);
    return ret;
}

/* Is the run over, and has said so? */
static bool over(const struct judge *j, const struct state *s)
{
    return !s->running && s->lo + 1 == j->count;
}

static void judge_damage(const struct judge *j, const char *who, const struct damage *d,
                         const struct damage *own, struct verdict *v)
{
    if (d->corruptions > own->corruptions)
        complain(v, &v->corrupt, "%s finds %" PRIu64 " corruptions", who, d->corruptions);
    if (d->leaks > own->leaks && !j->may_leak)
        complain(v, &v->leaked, "%s finds %" PRIu64 " leaks", who, d->leaks);
}

static void judge_by_library(const struct judge *j, const struct state *s, struct verdict *v)
{
    struct img_error err = IMG_ERROR_INIT;
    struct damage d;
    if (check_disks(j->scene, s->disks, &d, &err) < 0)
        complain(v, &v->corrupt, "it cannot be checked: %s", img_error_message(&err));
    else
        judge_damage(j, "the library", &d, over(j, s) ? &j->after : &j->own, v);
    img_error_clear(&err);
}

static void judge_by_qemu(const struct judge *j, const struct state *s, struct verdict *v)
{
    struct img_error err = IMG_ERROR_INIT;
    struct damage d;
    if (checker_end(j->checker, &d, &err) < 0)
        complain(v, &v->corrupt, "%s", img_error_message(&err));
    else
        judge_damage(j, "qemu-img", &d, over(j, s) ? &j->after_qemu : &j->own_qemu, v);
    img_error_clear(&err);
}

/* ---- old or new --------------------------------------------------------------------------- */

/* Is LINE, of LENGTH bytes, a line of TEXT? */
static bool has_line(const char *text, const char *line, size_t length)
{
    for (const char *at = text; *at; at += strcspn(at, "\n") + 1)
        if (strcspn(at, "\n") == length && !memcmp(at, line, length))
            return true;
    return false;
}

/* Each line of TEXT as some version has it: bitmaps are marked one by one. */
static bool lines_are_of(const struct judge *j, const char *text, bool kept, unsigned from,
                         unsigned to)
{
    for (size_t n; *text; text += n + 1) {
        bool found = false;
        n = strcspn(text, "\n");
        for (unsigned i = from; i <= to && !found; i++) {
            const struct view *w = &j->versions[i].view;
            found = w->image && has_line(kept ? w->kept : w->info, text, n);
        }
        if (!found)
            return false;
    }
    return true;
}

static unsigned count_lines(const char *text)
{
    unsigned n = 0;
    for (; *text; text++)
        n += *text == '\n';
    return n;
}

/* A bitmap is right about the disk if it is not marked "in use": V, which has one as LINE says,
 * can then only show what W shows if W has the same. */
static bool bitmap_allows(const struct view *v, const struct view *w, const char *line)
{
    char holds[1100];
    size_t n = strcspn(line, "\n");
    const char *comma = memchr(line, ',', n);
    unsigned flags;
    if (!comma || sscanf(comma, ", flags %u", &flags) != 1 || (flags & IMG_BITMAP_IN_USE))
        return true;
    if (!has_line(w->info, line, n))
        return false;
    snprintf(holds, sizeof holds, "%.*s holds", (int)(comma - line), line);
    const char *mine = strstr(v->kept, holds);
    return mine && has_line(w->kept, mine, strcspn(mine, "\n"));
}

/* Is what V has beside the disk's contents right about those of W? Bits of features that are not
 * known say that nothing has changed since they were set. */
static bool marks_allow(const struct view *v, const struct view *w)
{
    if (v->unknown && v->unknown != w->unknown)
        return false;
    for (const char *at = v->info; *at; at += strcspn(at, "\n") + 1)
        if (!strncmp(at, "bitmap ", 7) && !bitmap_allows(v, w, at))
            return false;
    return true;
}

/* Each sector as some version FROM..TO has it; *AT is the first that is not. */
static bool sectors_are_of(const struct judge *j, const struct view *v, unsigned from, unsigned to,
                           size_t *at)
{
    bool *allowed = must(calloc(to + 1, sizeof *allowed));
    bool found = true;
    for (unsigned i = from; i <= to; i++)
        allowed[i] = marks_allow(v, &j->versions[i].view);
    size_t end = (size_t)min_u64(v->size, max_u64(v->held, 1)); /* behind it, all have zeroes */
    for (unsigned i = from; i <= to; i++)
        end = (size_t)max_u64(end, min_u64(v->size, j->versions[i].view.held));
    for (*at = 0; *at < end && found; *at += found ? SECTOR : 0) {
        found = false;
        for (unsigned i = from; i <= to && !found; i++)
            found = allowed[i] &&
                    !memcmp(view_sector(v, *at), view_sector(&j->versions[i].view, *at), SECTOR);
    }
    free(allowed);
    return found;
}

static bool mixed(const struct judge *j, const struct view *v, unsigned from, unsigned to,
                  size_t *at)
{
    const struct view *w = &j->versions[from].view;
    *at = SIZE_MAX;
    return w->image && w->size == v->size && count_lines(w->info) == count_lines(v->info) &&
           lines_are_of(j, v->info, false, from, to) && lines_are_of(j, v->kept, true, from, to) &&
           sectors_are_of(j, v, from, to, at);
}

static bool old_or_new(const struct judge *j, const struct state *s, const struct view *v,
                       size_t *at)
{
    *at = SIZE_MAX;
    if (!v->image && j->may_be_none && s->running)
        return true;
    if (s->hi > s->lo && j->versions[s->hi].atomic) {
        const struct view *hi = &j->versions[s->hi].view;
        if (view_equal(v, hi) && (!v->image || marks_allow(v, hi)))
            return true;
        return v->image ? mixed(j, v, s->lo, s->hi - 1, at)
                        : view_equal(v, &j->versions[s->lo].view);
    }
    return v->image ? mixed(j, v, s->lo, s->hi, at) : view_equal(v, &j->versions[s->hi].view);
}

static void judge_view(const struct judge *j, const struct state *s, struct verdict *v)
{
    struct img_error err = IMG_ERROR_INIT;
    struct view view;
    size_t at;
    if (view_take(&view, j->scene, s->disks, &err) < 0)
        complain(v, &v->neither, "it cannot be read: %s", img_error_message(&err));
    else if (old_or_new(j, s, &view, &at))
        ;
    else if (!view.image)
        complain(v, &v->neither, "it is no image any more");
    else if (at != SIZE_MAX)
        complain(v, &v->neither, "the guest's bytes at %#zx are neither old nor new", at);
    else
        complain(v, &v->neither, "what it holds is neither old nor new: %s%s", view.info,
                 view.kept);
    view_free(&view);
    img_error_clear(&err);
}

static bool same_bytes(const struct disk *a, const struct disk *b)
{
    return a->size == b->size && (!a->size || !memcmp(a->data, b->data, a->size));
}

static void judge_bytes(const struct judge *j, const struct state *s, struct verdict *v)
{
    bool settled = !s->running && s->lo == s->hi;
    for (unsigned i = 0; settled && i < j->scene->files; i++)
        if (j->exact[i] && !same_bytes(&s->disks[i], &j->versions[s->lo].files[i]))
            complain(v, &v->neither, "file %u has not the bytes that it should have", i);
}

/* What was interrupted can be done again. */
static void judge_again(const struct judge *j, const struct state *s, struct verdict *v)
{
    struct img_error err = IMG_ERROR_INIT;
    struct recorder r;
    if (!j->again)
        return;
    recorder_init(&r, s->disks, j->scene->files);
    if (j->again(j->scene, &r, &err) < 0)
        complain(v, &v->neither, "it cannot be done again: %s", img_error_message(&err));
    for (unsigned i = 0; i < j->scene->files; i++)
        if (!same_bytes(&r.now[i], &j->end[i]))
            complain(v, &v->neither, "done again, file %u has other bytes", i);
    recorder_free(&r);
    img_error_clear(&err);
}

/* The second file is the undo file of what changes the first. */
static void judge_undo(const struct judge *j, const struct state *s, struct verdict *v)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_undone result;
    struct recorder r;
    if (!j->undoable)
        return;
    recorder_init(&r, s->disks, 1);
    struct file *undo = disk_open(&s->disks[1], "undo"), *image = record_open(&r, 0, "image");
    if (s->appeared && undo_apply(undo, image, &result, &err) < 0)
        complain(v, &v->neither, "it cannot be undone: %s", img_error_message(&err));
    else if (!same_bytes(&r.now[0], &j->scene->disks[0]))
        complain(v, &v->neither,
                 s->appeared ? "undone, it is not what it was"
                             : "it has changed, and there is no undo file");
    file_close(undo);
    file_close(image);
    recorder_free(&r);
    img_error_clear(&err);
}

bool judge_state(const struct judge *j, const struct state *s, struct verdict *v)
{
    *v = (struct verdict){0};
    if (s->running && j->only_after)
        return true;
    bool image = scene_has_qcow2(j->scene, s->disks);
    if (image && j->checker) /* it works while we look ourselves */
        checker_begin(j->checker, s->disks);
    if (image && !j->qemu_alone)
        judge_by_library(j, s, v);
    judge_view(j, s, v);
    judge_bytes(j, s, v);
    judge_again(j, s, v);
    judge_undo(j, s, v);
    if (image && j->checker)
        judge_by_qemu(j, s, v);
    return !v->corrupt && !v->leaked && !v->neither;
}
