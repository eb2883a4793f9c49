/*
 * Clusters that a writer has taken and, interrupted, never put to use.
 *
 * Some may lie behind the end of the file, where no check looks: their refcounts got to disk, their
 * contents did not. The file is made longer first, so that they are found with the others. Nothing
 * is touched where a check finds anything else than leaks.
 */
#include "formats/qcow2/qcow2.h"
#include "formats/qcow2/refcounts.h"
#include "formats/qcow2/refword.h"
#include "lib/check.h"
#include "lib/checked.h"

/* More than this a writer does not leave behind, and a file should not seem longer for it. */
static const uint64_t MOST_BEHIND = 16ull << 30;

/* *END: behind the last cluster with a refcount, if that is behind the FILE_CLUSTERS of the file.
 */
static int find_end(struct refcounts *r, uint64_t file_clusters, uint64_t *end,
                    struct img_error *err)
{
    uint64_t per_block = refcounts_per_block(r);
    int ret = 0;
    *end = file_clusters;
    for (uint64_t i = file_clusters / per_block; i < r->old_entries && !ret; i++) {
        struct refblock *b;
        if (!r->old[i])
            continue;
        ret = file_go_on(r->q->file, err);
        if (!ret)
            ret = refcounts_load(r, i, &b, err);
        for (uint64_t k = 0; k < per_block && !ret; k++)
            if (refword_get(b->data, k, r->order))
                *end = max_u64(*end, i * per_block + k + 1);
        refcounts_forget(r, i);
    }
    return ret;
}

static int look_behind(struct qcow2 *q, struct img_error *err)
{
    struct refcounts r;
    uint64_t clusters = div_round_up(q->file_size, q->geometry.cluster_size), end;
    if (q->file->device)
        return 0;
    int ret = refcounts_init(&r, q, err);
    if (ret < 0)
        return ret;
    ret = find_end(&r, clusters, &end, err);
    refcounts_free(&r);
    if (ret < 0 || end == clusters || (end - clusters) > MOST_BEHIND / q->geometry.cluster_size)
        return ret;
    ret = file_truncate(q->file, end * q->geometry.cluster_size, err);
    return ret < 0 ? ret : qcow2_reload(q, err);
}

static int find_leaks(struct layer *l, struct img_check *found, struct img_error *err)
{
    struct check_report report = {.result = found};
    *found = (struct img_check){0};
    return qcow2_check(l, &report, err);
}

static bool only_leaks(const struct img_check *found)
{
    return !found->corruptions && !found->check_errors;
}

int qcow2_sweep(struct layer *l, struct img_error *err)
{
    struct qcow2 *q = l->state;
    const struct img_repair_options leaks = {.what = IMG_REPAIR_LEAKS};
    struct img_check found;
    struct check_report report = {.result = &found};
    uint64_t size = q->file_size;
    int ret = find_leaks(l, &found, err);
    if (ret < 0 || !only_leaks(&found))
        return ret;
    ret = look_behind(q, err);
    if (!ret && q->file_size != size)
        ret = find_leaks(l, &found, err);
    if (ret < 0 || !found.leaks || !only_leaks(&found))
        return ret;
    found = (struct img_check){0};
    return qcow2_repair(l, &leaks, &report, err);
}
