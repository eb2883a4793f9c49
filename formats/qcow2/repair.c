/*
 * One round of a repair: look, plan, then change the image, which lies in an overlay
 * (repair_run.c).
 *
 * A check that knows what is to be repaired leaves behind the counted references, which are the
 * refcounts as they shall be, and the tables with entries to change. From that follows every byte
 * that differs, before the first is written. How it is written depends on what differs:
 *
 *   refcounts that only go down, or no more than one sector: in place. A sector is written whole or
 *   not at all, and each that is written leaves an image with fewer leaks than before.
 *
 *   anything else: the tables and refcount blocks that change are written elsewhere, into clusters
 *   that nothing references and whose refcount is 0, or behind the end of the file; then the first
 *   sector of the file leads to them. Where damage is left, what seems free may be what is missing:
 *   then it is always behind the end. What entries refer to there is left out: it is in the file
 *   then, and reads as zeroes, as it did. Only where there is too much of that the file must not
 * grow so far, and, for want of better, what leaks is taken.
 *
 * A table that is something else as well (data, another table) is never changed in place: it moves
 * away, and what it was besides stays as it is.
 *
 * No cluster is punched out or cut off: what seems lost may be what somebody looks for.
 */
#include "formats/qcow2/repair.h"
#include "formats/qcow2/header_write.h"
#include "formats/qcow2/ondisk.h"
#include "lib/checked.h"

#include <stdlib.h>
#include <string.h>

enum { SECTOR = 512 };

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
    if (c->rebuild || c->gone.count || c->snapshots_fix || c->snapshots_dropped ||
        c->snapshot_l1_fix || !repair_tables_alone(r))
        return 0;
    int ret = repair_tables_in_place(r, true, &sectors);
    if (!ret)
        ret = repair_refcounts_in_place(r, true, &sectors);
    r->in_place = !c->fixes_errors || sectors <= 1;
    return ret;
}

static int plan(struct repair *r)
{
    struct check *c = r->c;
    cluster_list_sort(&c->beyond);
    r->header.snapshot_count -= (uint32_t)c->snapshots_dropped;
    r->append |= c->report->result->corruptions != 0;
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
           a->reftable_clusters != b->reftable_clusters || a->incompatible != b->incompatible ||
           a->autoclear != b->autoclear;
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

static uint64_t padded_size(const struct repair *r)
{
    return align_up(r->q->file_size, r->q->geometry.cluster_size);
}

static int tell(struct repair *r)
{
    if (!r->options->change)
        return 0;
    int ret = repair_tell_tables(r);
    if (!ret)
        ret = repair_tell_refcounts(r);
    if (!ret && r->c->pad)
        repair_tell(r, &(struct img_change){
                           .what = "file-length", .from = r->q->file_size, .to = padded_size(r)});
    if (!ret)
        tell_header(r);
    return ret;
}

/* ---- the change ---------------------------------------------------------------------------- */

/* All but the header; each flush is for what must be on disk before what follows. */
static int write_contents(struct repair *r)
{
    uint64_t sectors = 0, end = r->q->file_size;
    int ret = 0;
    if (r->c->pad)
        ret = file_write_zeroes(r->q->file, host(end), padded_size(r) - end, r->err);
    if (ret < 0)
        return ret;
    if (r->in_place) {
        ret = repair_refcounts_in_place(r, false, &sectors);
        r->old_at = 0;
        if (!ret)
            ret = repair_tables_in_place(r, false, &sectors);
    } else {
        ret = repair_write_tables(r);
        if (!ret)
            ret = repair_write_refcounts(r);
    }
    return ret ? ret : file_flush(r->q->file, r->err);
}

static int write_header(struct repair *r)
{
    return header_changes(r) ? qcow2_write_header(r->q, &r->header, NULL, NULL, r->err) : 0;
}

/* Plans what there is to do; then the image lies in an overlay, and there it is done. */
static int change(struct repair *r, struct repair_run *run)
{
    r->header.autoclear &= AUTOCLEAR_BITMAPS | AUTOCLEAR_DATA_FILE_RAW;
    int ret = plan(r);
    run->changed = !(r->in_place && !header_changes(r) && !repair_has_tables(r) &&
                     !repair_has_refcounts(r) && !r->c->pad);
    if (!ret)
        ret = tell(r);
    if (ret < 0 || !run->changed)
        return ret;
    if (!run->overlay)
        ret = overlay_open(&run->overlay, r->q->file, CHANGES_IN_MEMORY, r->err);
    if (ret < 0)
        return ret;
    r->q->file = run->overlay;
    if (r->in_place) /* no way back from its first sector */
        run->safe = (uint32_t)min_u64(run->safe, overlay_stage(run->overlay));
    run->new_header |= header_changes(r);
    ret = write_contents(r);
    run->safe = (uint32_t)min_u64(run->safe, overlay_stage(run->overlay));
    return ret ? ret : write_header(r);
}

int repair_round(struct repair_run *run, struct check_report *report, struct img_error *err)
{
    struct qcow2 *q = run->q;
    unsigned what = run->options->what;
    struct check c = {
        .q = q, .report = report, .err = err, .fix = what, .outside_from = UINT64_MAX};
    struct repair r = {.c = &c, .q = q, .options = run->options, .err = err, .header = q->header};
    int ret = check_run(&c);
    run->changed = false;
    /* what an earlier round has made free is what an undo leads back to first: it stays whole */
    r.append = run->overlay != NULL;
    if (!ret && what)
        ret = change(&r, run);
    check_end(&c);
    free(r.places);
    free(r.releases);
    free(r.snapshots);
    free(r.old_piece);
    free(r.new_piece);
    return ret;
}
