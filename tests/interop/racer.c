/*
 * racer: two processes that open an image to write it, at the same moment, again and again.
 *
 *   racer [-f FMT] ROUNDS IMAGE
 *
 * Each round both try; who gets in stays until the other has had its answer. Prints how many rounds
 * one of them won, how many none did, and how often both were in, which must never happen: exit
 * code 1.
 */
#include <imgtool.h>

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

struct round {
    atomic_uint ready, tried, left, won;
};

struct shared {
    atomic_uint one, none, both, odd;
    struct round rounds[];
};

static void wait_for_both(atomic_uint *count)
{
    atomic_fetch_add(count, 1);
    while (atomic_load(count) < 2)
        sched_yield();
}

/* True: it got in, and is left. A refusal that is not one is counted. */
static void try(struct shared *s, struct round *r, const char *image,
                const struct img_open_options *options)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img *img = NULL;
    wait_for_both(&r->ready);
    if (img_open(&img, image, options, &err) == 0)
        atomic_fetch_add(&r->won, 1);
    else if (!strstr(img_error_message(&err), "Failed to get"))
        atomic_fetch_add(&s->odd, 1);
    wait_for_both(&r->tried);
    img_close(img);
    img_error_clear(&err);
    wait_for_both(&r->left);
}

static void run(struct shared *s, unsigned rounds, const char *image,
                const struct img_open_options *options)
{
    for (unsigned i = 0; i < rounds; i++)
        try(s, &s->rounds[i], image, options);
}

int main(int argc, char **argv)
{
    struct img_open_options options = {.flags = IMG_OPEN_WRITE};
    if (argc > 2 && !strcmp(argv[1], "-f")) {
        options.format = argv[2];
        argc -= 2;
        argv += 2;
    }
    if (argc != 3)
        return 2;
    unsigned rounds = (unsigned)atoi(argv[1]);
    struct shared *s = mmap(NULL, sizeof *s + rounds * sizeof s->rounds[0], PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (s == MAP_FAILED)
        return 2;
    pid_t child = fork();
    run(s, rounds, argv[2], &options);
    if (child == 0)
        _exit(0);
    int status;
    if (child < 0 || waitpid(child, &status, 0) < 0 || status)
        return 2;
    for (unsigned i = 0; i < rounds; i++) {
        unsigned won = atomic_load(&s->rounds[i].won);
        atomic_fetch_add(won == 0 ? &s->none : won == 1 ? &s->one : &s->both, 1);
    }
    printf("%u won by one, %u by none, %u by both, %u odd answers\n", atomic_load(&s->one),
           atomic_load(&s->none), atomic_load(&s->both), atomic_load(&s->odd));
    return atomic_load(&s->both) || atomic_load(&s->odd);
}
