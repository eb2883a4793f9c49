/*
 * Between a comparison of refcounts and their repair: what is told in which order is QEMU's.
 *
 * Refcounts that are too low or too high are put right one by one. But where a cluster in use has
 * the refcount 0, or the refcount table or a block cannot be what it says, none of them is trusted:
 * all are made anew, and the clusters of the old ones are free then.
 */
#include "formats/qcow2/check.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

int cluster_list_add(struct cluster_list *l, uint64_t cluster, struct img_error *err)
{
    if (l->count == l->room) {
        size_t room = l->room ? l->room * 2 : 64;
        uint64_t *wider = realloc(l->items, room * sizeof *wider);
        if (!wider)
            return img_fail_nomem(err);
        l->items = wider;
        l->room = room;
    }
    l->items[l->count++] = cluster;
    return 0;
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Each cluster stays once. */
void cluster_list_sort(struct cluster_list *l)
{
    size_t n = 0;
    if (l->count)
        qsort(l->items, l->count, sizeof *l->items, by_number);
    for (size_t i = 0; i < l->count; i++)
        if (!n || l->items[n - 1] != l->items[i])
            l->items[n++] = l->items[i];
    l->count = n;
}

bool cluster_list_has(const struct cluster_list *l, uint64_t cluster)
{
    return l->count && bsearch(&cluster, l->items, l->count, sizeof cluster, by_number);
}

/* Blocks that would lie outside the file use clusters there; the file's own refcounts may say so.
 */
static void check_gone(struct check *c)
{
    cluster_list_sort(&c->gone);
    for (size_t i = 0; i < c->gone.count; i++) {
        uint64_t cluster = c->gone.items[i], refcount;
        if (check_stored_refcount(c, cluster, &refcount) && refcount)
            continue;
        c->rebuild = true;
        check_bad(c, REFCOUNT_TOO_LOW, cluster << c->q->geometry.cluster_bits,
                  "ERROR cluster %" PRIu64 " refcount=0 reference=1", cluster);
    }
}

/* The clusters of all refcount structures that were counted: sorted, with those outside the file.
 */
static int list_old(struct check *c)
{
    const struct qcow2_header *h = &c->q->header;
    uint64_t first = h->reftable_offset >> h->cluster_bits;
    int ret = 0;
    for (uint64_t i = 0; i < h->reftable_clusters && !ret; i++)
        if (first + i < c->clusters)
            ret = cluster_list_add(&c->old, first + i, c->err);
    for (size_t i = 0; i < c->gone.count && !ret; i++)
        ret = cluster_list_add(&c->old, c->gone.items[i], c->err);
    cluster_list_sort(&c->old);
    return ret;
}

/* What else uses the clusters of the old structures now? */
static void tell_old(struct check *c, const uint64_t *before)
{
    for (size_t i = 0; i < c->old.count; i++) {
        uint64_t cluster = c->old.items[i], now = refs_get(&c->refs, cluster);
        if (now < before[i])
            check_repairs(c, LEAK, cluster << c->q->geometry.cluster_bits,
                          "Repairing cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64,
                          cluster, before[i], now);
    }
}

static int count_again(struct check *c)
{
    struct img_check *r = c->report->result;
    r->allocated_clusters = r->fragmented_clusters = r->compressed_clusters = 0;
    r->corruptions = c->before;
    r->leaks = r->check_errors = r->unseen_by_qemu = c->once = 0;
    for (size_t i = 0; i < c->tables.capacity; i++) {
        struct l2_table *t = &c->tables.slots[i];
        t->seen = false;
        t->found = t->allocated = t->fragmented = t->compressed = 0;
    }
    c->again = true;
    int ret = check_start_counting(c);
    return ret ? ret : check_count_references(c);
}

static int rebuild(struct check *c)
{
    struct img_check *r = c->report->result;
    uint64_t leaks = r->leaks, corruptions = r->corruptions;
    check_repairs(c, REFCOUNT_BLOCK, c->q->header.reftable_offset, "Rebuilding refcount structure");
    int ret = list_old(c);
    uint64_t *before = ret ? NULL : calloc(c->old.count + 1, sizeof *before);
    if (!ret && !before)
        ret = img_fail_nomem(c->err);
    for (size_t i = 0; i < c->old.count && !ret; i++)
        before[i] = cluster_list_has(&c->gone, c->old.items[i])
                        ? 1
                        : refs_get(&c->refs, c->old.items[i]);
    if (!ret)
        ret = count_again(c);
    if (!ret) {
        tell_old(c, before);
        r->corruptions_fixed += corruptions > r->corruptions ? corruptions - r->corruptions : 0;
        r->leaks_fixed += leaks;
        c->plain = false;
        c->fixes_errors = true;
    }
    free(before);
    return ret;
}

/* Compares all refcounts; one that cannot be read is a reason to repair nothing. */
static int compare_all(struct check *c, unsigned fix, bool last)
{
    int ret = check_compare_refcounts(c, fix, last);
    if (!ret && c->failure)
        ret = img_fail_errno(c->err, -c->failure, "Could not read a refcount block");
    return ret;
}

int check_fix_refcounts(struct check *c)
{
    struct img_check *r = c->report->result;
    uint64_t leaks = r->leaks, corruptions = r->corruptions, errors = r->check_errors;
    int ret = compare_all(c, 0, false);
    if (ret < 0)
        return ret;
    if (c->exhausted) /* what was not looked at must not be freed */
        return img_fail(c->err, EIO,
                        "tables overlap each other so much that not all of them were "
                        "looked at; nothing is repaired");
    if (c->hidden)
        return img_fail(c->err, EIO,
                        "what the encryption header uses is not known, so nothing is "
                        "repaired");
    check_gone(c);
    if (c->rebuild && (c->fix & IMG_REPAIR_ERRORS))
        return rebuild(c);
    if (c->rebuild) {
        r->check_errors++;
        check_repairs(c, REFCOUNT_BLOCK, c->q->header.reftable_offset,
                      "ERROR need to rebuild refcount structures");
        return img_fail(c->err, EIO, "need to rebuild refcount structures");
    }
    if (!r->leaks && r->corruptions == c->before)
        return 0;
    r->leaks = leaks;
    r->corruptions = corruptions;
    r->check_errors = errors;
    return compare_all(c, c->fix, true);
}
