/*
 * Repairing: look, plan, then change the file in one step.
 *
 * A check that knows what is to be repaired leaves behind the counted references, which are the
 * refcounts as they shall be, and the tables with entries to change. From that follows every byte
 * that differs, before the first is written. How it is written depends on what differs:
 *
 *   refcounts that only go down, or no more than one sector: in place. A sector is written whole or
 *   not at all, and each that is written leaves an image with fewer leaks than before. So it is,
 *   too, where the file cannot grow (see below): then a flag can come to disk before its refcount
 *   or behind it. A check counts each such pair, but whichever of the two is new, no writer does
 *   more harm than before: where a refcount was too high, the cluster has one user, who may write
 *   into it or leave it; where it was too low, the cluster is in danger until both are right. So
 *   there is no order to keep.
 *
 *   anything else: the tables and refcount blocks that change are written elsewhere, into clusters
 *   that nothing references and whose refcount is 0, or behind the end of the file; then the first
 *   sector of the file leads to them. Where damage is left, what seems free may be what is missing:
 *   then it is always behind the end. But where entries refer to what lies behind the end, the file
 *   must not grow so far that they lead to something: then, for want of better, what leaks is
 *   taken.
 *
 * No cluster is punched out or cut off: what seems lost may be what somebody looks for.
 */
#include "formats/qcow2/repair.h"
#include "formats/qcow2/header_write.h"
#include "formats/qcow2/ondisk.h"
#include "lib/checked.h"
#include "lib/file_undo.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SECTOR = 512 };

/* How far behind the end of the file something must lie to leave room for all that can move. */
#define CRAMPED (1ull << 30)

void repair_tell(struct repair *r, const struct img_change *change)
{
    r->options->change(r->options->opaque, change);
}

int repair_sectors(struct repair *r, const uint8_t *old, const uint8_t *new, size_t len,
                   uint64_t offset, bool count_only, uint64_t *sectors)
{
    int ret = 0;
    for (size_t at = 0; at < len && !ret; at += SECTOR) {
        if (!memcmp(old + at, new + at, SECTOR))
            continue;
        ++*sectors;
        if (!count_only)
            ret = file_write(r->q->file, new + at, SECTOR, host(offset + at), r->err);
    }
    return ret;
}

/* ---- the plan ------------------------------------------------------------------------------ */

/* The marks that an image has until it is repaired. */
static void plan_marks(struct repair *r)
{
    const struct img_check *found = r->c->report->result;
    if (found->check_errors || found->corruptions > found->unseen_by_qemu)
        return;
    r->header.incompatible &= ~(uint64_t)INCOMPAT_DIRTY;
    if (!found->corruptions)
        r->header.incompatible &= ~(uint64_t)INCOMPAT_CORRUPT;
}

static int choose_in_place(struct repair *r)
{
    const struct check *c = r->c;
    uint64_t sectors = 0;
    if (c->rebuild || c->gone.count || c->snapshots_fix || c->snapshots_dropped)
        return 0;
    int ret = repair_tables_in_place(r, true, &sectors);
    if (!ret)
        ret = repair_refcounts_in_place(r, true, &sectors);
    bool cramped = c->outside_from - min_u64(c->end, c->outside_from) < CRAMPED;
    r->in_place = !c->fixes_errors || sectors <= 1 || cramped;
    return ret;
}

static int plan(struct repair *r)
{
    const struct check *c = r->c;
    r->header.snapshot_count -= (uint32_t)c->snapshots_dropped;
    r->append = c->report->result->corruptions != 0;
    r->limit = c->clusters;
    r->most = c->outside_from >> r->q->geometry.cluster_bits;
    r->blocks = c->reftable_entries;
    r->old_piece = malloc(CHECK_PIECE);
    r->new_piece = malloc(CHECK_PIECE);
    r->places = calloc(r->blocks + !r->blocks, sizeof *r->places);
    if (!r->old_piece || !r->new_piece || !r->places)
        return img_fail_nomem(r->err);
    plan_marks(r);
    if (!repair_has_tables(r) && !c->snapshots_fix && !repair_has_refcounts(r)) {
        r->in_place = true;
        return 0;
    }
    int ret = choose_in_place(r);
    if (ret < 0 || r->in_place)
        return ret;
    ret = repair_place_tables(r);
    if (!ret)
        ret = repair_place_refcounts(r);
    r->old_at = 0;
    return ret;
}

static bool header_changes(const struct repair *r)
{
    const struct qcow2_header *a = &r->header, *b = &r->q->header;
    return a->snapshot_count != b->snapshot_count || a->snapshots_offset != b->snapshots_offset ||
           a->l1_offset != b->l1_offset || a->reftable_offset != b->reftable_offset ||
           a->incompatible != b->incompatible || a->autoclear != b->autoclear;
}

static void tell_header(struct repair *r)
{
    const struct qcow2_header *a = &r->q->header, *b = &r->header;
    const struct {
        const char *name;
        size_t offset;
        uint64_t from, to;
    } fields[] = {
#define FIELD(name, member) {#name, offsetof(struct ondisk_header, name), a->member, b->member}
        FIELD(l1_table_offset, l1_offset),
        FIELD(refcount_table_offset, reftable_offset),
        FIELD(refcount_table_clusters, reftable_clusters),
        FIELD(nb_snapshots, snapshot_count),
        FIELD(snapshots_offset, snapshots_offset),
        FIELD(incompatible_features, incompatible),
        FIELD(autoclear_features, autoclear),
#undef FIELD
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (fields[i].from != fields[i].to)
            repair_tell(r, &(struct img_change){.what = "header",
                                                .field = fields[i].name,
                                                .host_offset = fields[i].offset,
                                                .from = fields[i].from,
                                                .to = fields[i].to});
}

static int tell(struct repair *r)
{
    if (!r->options->change)
        return 0;
    int ret = repair_tell_tables(r);
    if (!ret)
        ret = repair_tell_refcounts(r);
    if (!ret)
        tell_header(r);
    return ret;
}

/* ---- the change ---------------------------------------------------------------------------- */

/* All but the header, onto disk. */
static int write_contents(struct repair *r)
{
    uint64_t sectors = 0;
    int ret;
    if (r->in_place) {
        ret = repair_refcounts_in_place(r, false, &sectors);
        r->old_at = 0;
        if (!ret)
            ret = repair_tables_in_place(r, false, &sectors);
    } else {
        ret = repair_write_tables(r);
        if (!ret)
            ret = repair_write_refcounts(r);
        sectors = 1;
    }
    return !ret && sectors ? file_flush(r->q->file, r->err) : ret;
}

static int write_header(struct repair *r)
{
    return header_changes(r) ? qcow2_write_header(r->q, &r->header, NULL, NULL, r->err) : 0;
}

/* The same with a file that only takes down what would be overwritten. */
static int save_undo(struct repair *r, struct file **recorder)
{
    struct file *image = r->q->file;
    int ret = undo_start(recorder, image, r->options->undo_file, r->err);
    if (ret < 0)
        return ret;
    r->q->file = *recorder;
    ret = write_contents(r);
    if (!ret)
        ret = write_header(r);
    r->q->file = image;
    if (!ret)
        ret = undo_finish(*recorder, r->err);
    return ret < 0 ? img_prefix(r->err, ret, "Could not save what would be overwritten: ") : 0;
}

/* Nothing leads to what was written so far, so it may go. Is the file what it was? */
static bool take_back(struct repair *r, uint64_t before)
{
    struct file *f = r->q->file;
    uint64_t now;
    if (r->in_place || f->device || file_size(f, &now, NULL) < 0)
        return false;
    return now == before || f->ops->truncate(f, before) == 0;
}

/* *UNTOUCHED: it failed, and the image is what it was. */
static int change_file(struct repair *r, bool *untouched)
{
    struct file *f = r->q->file;
    const struct cancel *cancel = f->cancel;
    uint64_t before;
    int ret = file_size(f, &before, r->err);
    *untouched = ret < 0;
    if (ret < 0)
        return ret;
    if (r->in_place) /* no way back from its first sector */
        f->cancel = NULL;
    ret = write_contents(r);
    if (ret < 0) {
        *untouched = take_back(r, before);
    } else {
        f->cancel = NULL;
        ret = write_header(r);
        r->q->writable = ret == 0; /* which header the file has now, nobody knows */
    }
    f->cancel = cancel;
    return ret;
}

static int apply(struct repair *r)
{
    struct file *recorder = NULL;
    bool untouched = true;
    int ret = r->options->undo_file ? save_undo(r, &recorder) : 0;
    if (!ret)
        ret = change_file(r, &untouched);
    if (ret < 0 && untouched && recorder)
        undo_withdraw(recorder);
    file_close(recorder);
    return ret < 0 ? ret : qcow2_reload(r->q, r->err);
}

static int repair(struct repair *r)
{
    /* what is not known must not outlive a writer, as QEMU has it */
    r->header.autoclear &= AUTOCLEAR_BITMAPS | AUTOCLEAR_DATA_FILE_RAW;
    int ret = plan(r);
    bool nothing = r->in_place && !header_changes(r) && !repair_has_tables(r) &&
                   !repair_has_refcounts(r);
    if (!ret)
        ret = tell(r);
    if (!ret && !r->options->dry_run && (!nothing || r->options->undo_file))
        ret = apply(r);
    return ret;
}

int qcow2_repair(struct layer *l, const struct img_repair_options *options,
                 struct check_report *report, struct img_error *err)
{
    struct qcow2 *q = l->state;
    struct check c = {
        .q = q, .report = report, .err = err, .fix = options->what, .outside_from = UINT64_MAX};
    struct repair r = {.c = &c, .q = q, .options = options, .err = err, .header = q->header};
    int ret = qcow2_still_there(q, err);
    if (!ret && !q->writable && !options->dry_run)
        ret = img_fail(err, EBADF, "What a repair of '%s' that failed has left is not known",
                       l->filename);
    if (!ret)
        ret = check_run(&c);
    if (!ret && options->what)
        ret = repair(&r);
    check_end(&c);
    free(r.places);
    free(r.releases);
    free(r.snapshots);
    free(r.old_piece);
    free(r.new_piece);
    return ret;
}

/* ---- opening a dirty image ----------------------------------------------------------------- */

/* Keeps what is told, up to a length that nobody reads to the end. */
enum { MAX_STORY = 1 << 20 };

static void remember(void *opaque, const struct img_finding *f)
{
    FILE *story = opaque;
    if (f->severity != IMG_SEVERITY_NOTE && ftell(story) < MAX_STORY)
        fprintf(story, "%s%s", ftell(story) > 0 ? "\n" : "", f->what);
}

int qcow2_repair_dirty(struct layer *l, struct img_error *err)
{
    struct img_repair_options o = {.what = IMG_REPAIR_ALL};
    struct img_check found = {0};
    size_t length = 0;
    FILE *story = open_memstream(&l->repaired, &length);
    if (!story)
        return img_fail_nomem(err);
    struct check_report report = {.result = &found, .fn = remember, .opaque = story};
    int ret = qcow2_repair(l, &o, &report, err);
    if (!ret && found.check_errors)
        ret = img_fail(err, EIO, "a part of it could not be checked");
    fclose(story);
    if (!length) {
        free(l->repaired);
        l->repaired = NULL;
    }
    return ret < 0 ? img_prefix(err, ret, "Could not repair dirty image: ") : 0;
}
