/*
 * How many reads, or lookups, an open image answers in a second.
 *
 *   randread read|map|lookup IMAGE THREADS SECONDS [SEED]
 *
 * Random 4 KiB blocks, aligned, over the whole disk. Prints a number: per second, all threads
 * together. "lookup" is what each read begins with, without the read; "map" asks for holes of the
 * host file too.
 */
#include "lib/image.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { BLOCK = 4096, CHECK_EVERY = 64 };

struct job {
    struct img *img;
    const char *kind;
    uint64_t seed, done;
    double seconds;
    atomic_bool *failed;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int ignore(void *opaque, const struct img_extent *extent)
{
    (void)opaque;
    (void)extent;
    return 0;
}

static int once(struct job *job, uint64_t offset, struct img_error *err)
{
    char block[BLOCK];
    struct extent e;
    unsigned depth;
    switch (*job->kind) {
    case 'l':
        return chain_map(job->img, guest(offset), BLOCK, MAP_ALLOCATION, NULL, &e, &depth, err);
    case 'm':
        return img_map(job->img, offset, BLOCK, ignore, NULL, err);
    default:
        return img_read(job->img, block, BLOCK, offset, err);
    }
}

static void *run(void *opaque)
{
    struct job *job = opaque;
    struct img_error err = IMG_ERROR_INIT;
    uint64_t blocks = img_size(job->img) / BLOCK;
    double end = now() + job->seconds;
    do {
        for (unsigned i = 0; i < CHECK_EVERY; i++) {
            /* xorshift */
            job->seed ^= job->seed << 13;
            job->seed ^= job->seed >> 7;
            job->seed ^= job->seed << 17;
            if (once(job, job->seed % blocks * BLOCK, &err) < 0) {
                fprintf(stderr, "%s\n", img_error_message(&err));
                img_error_clear(&err);
                *job->failed = true;
                return NULL;
            }
            job->done++;
        }
    } while (now() < end);
    return NULL;
}

int main(int argc, char **argv)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img *img;
    if (argc < 5) {
        fprintf(stderr, "usage: %s read|map|lookup IMAGE THREADS SECONDS [SEED]\n", argv[0]);
        return 2;
    }
    unsigned threads = (unsigned)atoi(argv[3]);
    uint64_t seed = argc > 5 ? strtoull(argv[5], NULL, 0) : 1;
    if (img_open(&img, argv[2], NULL, &err) < 0) {
        fprintf(stderr, "%s\n", img_error_message(&err));
        return 1;
    }
    struct job *jobs = calloc(threads, sizeof *jobs);
    pthread_t *ids = calloc(threads, sizeof *ids);
    if (!jobs || !ids || img_size(img) < BLOCK)
        return 1;
    atomic_bool failed = false;
    double start = now();
    uint64_t done = 0;
    for (unsigned i = 0; i < threads; i++) {
        jobs[i] = (struct job){.img = img,
                               .kind = argv[1],
                               .seed = (seed + i) * 0x9e3779b97f4a7c15ull | 1,
                               .seconds = atof(argv[4]),
                               .failed = &failed};
        if (pthread_create(&ids[i], NULL, run, &jobs[i]))
            return 1;
    }
    for (unsigned i = 0; i < threads; i++) {
        pthread_join(ids[i], NULL);
        done += jobs[i].done;
    }
    if (!failed)
        printf("%.0f\n", (double)done / (now() - start));
    img_close(img);
    free(jobs);
    free(ids);
    return failed;
}
