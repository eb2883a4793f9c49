/*
 * Tables back where they were.
 *
 * What a transaction changes gets a new place. Once it is committed the old places are free, and as
 * long as nothing else takes them, the tables can go back by a second transaction, which in turn
 * touches nothing that the image uses. So an image keeps its layout, as it does when QEMU changes
 * it in place, and its file stays as short as it was.
 *
 * This is for a few tables: to move more of them twice would cost more than the order is worth.
 * Tables that a snapshot names too stay where they are.
 */
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/rewrite.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <stdlib.h>

/* At most so many tables go back, and at most so many bytes of them. */
enum { MOST_TABLES = 64, MOST_BYTES = 8 << 20 };

int tx_note_moved(struct transaction *t, uint64_t home, uint64_t place, struct img_error *err)
{
    if (t->moved_count > MOST_TABLES)
        return 0;
    struct moved_table *list = realloc(t->moved, (t->moved_count + 1) * sizeof *list);
    if (!list)
        return img_fail_nomem(err);
    t->moved = list;
    t->moved[t->moved_count++] = (struct moved_table){home, place};
    return 0;
}

struct journey {
    struct transaction t;
    const struct transaction *from; /* the one that moved the tables */
    uint64_t below;                 /* where homes have to be */
    bool any;                       /* something goes home */
};

/* Takes the place where a table of COUNT clusters was. */
static int take(struct journey *j, uint64_t home, uint64_t count, bool *taken)
{
    unsigned bits = j->t.q->geometry.cluster_bits;
    *taken = false;
    bool wanted = home && home < j->below;
    int ret = wanted ? refcounts_allocate_at(&j->t.refs, home >> bits, count, taken, NULL) : 0;
    j->any |= *taken;
    return ret;
}

static uint64_t home_of(const struct transaction *t, uint64_t place)
{
    for (size_t i = 0; i < t->moved_count; i++)
        if (t->moved[i].place == place)
            return t->moved[i].home;
    return 0;
}

/* Moves what one L1 entry names, if it is the active disk's alone. */
static int move_l2(struct journey *j, uint8_t *l1_entry, uint8_t *buf)
{
    uint32_t size = j->t.q->geometry.cluster_size;
    uint64_t entry = load_be64(l1_entry), place = entry & L1_OFFSET_MASK, refcount;
    uint64_t home = place ? home_of(j->from, place) : 0;
    bool taken;
    int ret = home ? tx_refcount(&j->t, place, &refcount, NULL) : 0;
    if (ret < 0 || !home || refcount != 1)
        return ret;
    ret = take(j, home, 1, &taken);
    if (ret < 0 || !taken)
        return ret;
    ret = file_read(j->t.q->file, buf, size, host(place), NULL);
    if (!ret)
        ret = tx_write(&j->t, home, buf, size, NULL);
    if (!ret)
        ret = tx_release(&j->t, place, size, NULL);
    store_be64(l1_entry, home | (entry & ENTRY_COPIED));
    return ret;
}

/* The L1 table, and with it the L2 tables. */
static int move_mapping(struct journey *j)
{
    const struct qcow2_header *h = &j->t.q->header;
    uint32_t cluster = j->t.q->geometry.cluster_size;
    uint64_t bytes = h->l1_size * 8ull, padded = align_up(bytes, cluster);
    uint64_t home = j->from->moved_l1.home;
    bool taken = false;
    if (!home || j->from->moved_l1.place != h->l1_offset || !bytes)
        return 0;
    uint8_t *l1 = calloc(1, padded), *buf = malloc(cluster);
    int ret = l1 && buf ? take(j, home, padded / cluster, &taken) : -1;
    if (!ret && taken)
        ret = file_read(j->t.q->file, l1, bytes, host(h->l1_offset), NULL);
    for (uint64_t i = 0; i < bytes && !ret && taken; i += 8)
        ret = move_l2(j, l1 + i, buf);
    if (!ret && taken)
        ret = tx_write(&j->t, home, l1, padded, NULL);
    if (!ret && taken)
        ret = tx_release(&j->t, h->l1_offset, bytes, NULL);
    if (!ret && taken)
        j->t.header.l1_offset = home;
    free(l1);
    free(buf);
    return ret;
}

/* Blocks of which only the place differs come along. */
static int move_refcounts(struct journey *j)
{
    const struct refcounts *from = &j->from->refs;
    int ret = 0;
    if (from->order != from->old_order)
        return 0;
    for (uint64_t k = 0; k < from->changed_count && !ret; k++) {
        uint64_t i = from->changed[k], home = i < from->old_entries ? from->old[i] : 0;
        struct refblock *b;
        bool open = false;
        if (!home || home >= j->below || !from->blocks[i]->place)
            continue;
        ret = refcounts_load(&j->t.refs, i, &b, NULL);
        if (!ret)
            ret = refcounts_is_free(&j->t.refs, home >> j->t.q->geometry.cluster_bits, &open, NULL);
        if (ret < 0 || !open)
            continue;
        b->home = home;
        j->any = true;
        ret = refcounts_move(&j->t.refs, i, NULL);
    }
    if (j->from->moved_reftable.home < j->below)
        j->t.reftable_home = j->from->moved_reftable.home;
    return ret;
}

void tx_go_home(const struct transaction *from, uint64_t below)
{
    struct journey j = {.from = from, .below = below};
    uint64_t tables = from->moved_count + from->refs.changed_count + 2;
    if (!from->refs.changed_count || tables > MOST_TABLES ||
        tables << from->q->geometry.cluster_bits > MOST_BYTES)
        return;
    if (tx_begin(&j.t, from->q, NULL) < 0)
        return;
    int ret = move_mapping(&j);
    if (!ret)
        ret = move_refcounts(&j);
    if (!ret && j.any)
        tx_commit(&j.t, NULL);
    tx_end(&j.t);
}
