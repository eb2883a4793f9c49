/*
 * Writing to an image that exists, on several threads.
 *
 * In the order of the disk, each stretch is given its place, and the image knows of it (settle);
 * the bytes themselves are written after that (finish), by the thread that has them. Before the
 * image brings to disk what it knows, it waits here for all of them. One that cannot be written
 * breaks the writer: what it knows is forgotten, and the file is what it was when it was flushed
 * last.
 */
#include "lib/checked.h"
#include "lib/ops/copy_engine.h"
#include "lib/write.h"

/* Writes what P has left. */
static int write_left(struct copy_target *t, struct copy_piece *p, struct img_error *err)
{
    int ret = 0;
    for (size_t i = 0; i < p->late_count && !ret; i++) {
        const struct copy_late *late = &p->late[i];
        ret = file_write(late->file, late->data, (size_t)late->length, late->host, err);
        if (ret < 0)
            write_failed(t->img, late->offset, ret, err);
    }
    p->late_count = 0;
    if (ret < 0) {
        pthread_mutex_lock(&t->late.lock);
        t->late.failed = ret;
        pthread_mutex_unlock(&t->late.lock);
    }
    return ret;
}

/* The piece that is settled may have left something itself; the others' threads do not need the
 * turn any more. */
static int fill_late(void *opaque, struct img_error *err)
{
    struct copy_target *t = opaque;
    int ret = t->late.settling ? write_left(t, t->late.settling, err) : 0;
    pthread_mutex_lock(&t->late.lock);
    while (t->late.pieces)
        pthread_cond_wait(&t->late.written, &t->late.lock);
    int failed = t->late.failed;
    pthread_mutex_unlock(&t->late.lock);
    if (!ret && failed)
        ret = img_fail(err, -failed, "What was written before could not be written");
    return ret;
}

void copy_late_start(struct copy_target *t)
{
    struct layer *l = t->img->layers[0];
    t->late.started = true;
    pthread_mutex_init(&t->late.lock, NULL);
    pthread_cond_init(&t->late.written, NULL);
    l->fill_late_opaque = t;
    l->fill_late = fill_late;
}

void copy_late_end(struct copy_target *t)
{
    if (!t->late.started)
        return;
    pthread_cond_destroy(&t->late.written);
    pthread_mutex_destroy(&t->late.lock);
}

void copy_late_settling(struct copy_target *t, struct copy_piece *p)
{
    t->late.settling = p;
}

void copy_late_settled(struct copy_target *t, bool failed)
{
    struct copy_piece *p = t->late.settling;
    if (failed) /* nobody will finish it */
        write_left(t, p, NULL);
    t->late.settling = NULL;
    if (!p->late_count)
        return;
    pthread_mutex_lock(&t->late.lock);
    t->late.pieces++;
    pthread_mutex_unlock(&t->late.lock);
}

int copy_late_write(struct copy_target *t, const struct copy_run *r, uint64_t length,
                    struct img_error *err)
{
    int ret = write_start(t->img, r->offset, length, "Write", err);
    for (uint64_t done = 0; done < length && !ret;) {
        struct placement p;
        uint64_t offset = r->offset + done;
        ret = copy_piece_late_room(t->late.settling, err);
        if (!ret)
            ret = write_some(t->img, r->data + done, length - done, offset, true, &p, err);
        if (!ret && p.may_be_late)
            t->late.settling->late[t->late.settling->late_count++] = (struct copy_late){
                p.file, p.host, r->data + done, p.length, offset};
        done += ret ? 0 : p.length;
    }
    return ret;
}

int copy_late_finish(struct copy_target *t, struct copy_piece *p, struct img_error *err)
{
    if (!p->late_count)
        return 0;
    uint64_t offset = p->late[0].offset;
    int ret = write_left(t, p, err);
    pthread_mutex_lock(&t->late.lock);
    t->late.pieces--;
    pthread_cond_broadcast(&t->late.written);
    pthread_mutex_unlock(&t->late.lock);
    return ret < 0 ? copy_failed(err, ret, "writing", offset) : 0;
}
