#include "progress_json.h"
#include "output.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* With the lock held. */
static int format(const struct progress_json *j, char *line, size_t size)
{
    double elapsed = now() - j->phase_start;
    uint64_t moved = j->done > j->phase_done ? j->done - j->phase_done : 0;
    uint64_t rate = elapsed > 0 ? (uint64_t)((double)moved / elapsed) : 0;
    uint64_t left = j->total > j->done ? j->total - j->done : 0;
    char rate_text[24] = "null", left_text[24] = "null";
    if (rate)
        snprintf(rate_text, sizeof rate_text, "%" PRIu64, rate);
    if (!left || rate)
        snprintf(left_text, sizeof left_text, "%" PRIu64, left ? left / rate : 0);
    return snprintf(line, size,
                    "{\"phase\": \"%s\", \"done\": %" PRIu64 ", \"total\": %" PRIu64
                    ", \"rate\": %s, \"seconds-left\": %s}\n",
                    j->phase, j->done, j->total, rate_text, left_text);
}

/* A reader that is gone is nothing to fail for: SIGPIPE is blocked in this thread. */
static void write_line(struct progress_json *j)
{
    char line[256];
    int length = format(j, line, sizeof line);
    pthread_mutex_unlock(&j->lock);
    for (ssize_t at = 0, n; at < length; at += n) {
        n = write(j->fd, line + at, (size_t)(length - at));
        if (n < 0 && errno != EINTR)
            break;
        n = n < 0 ? 0 : n;
    }
    pthread_mutex_lock(&j->lock);
}

static void wait_a_second(struct progress_json *j)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec++;
    while (!j->over && pthread_cond_timedwait(&j->changed, &j->lock, &until) != ETIMEDOUT)
        ;
}

static void *run(void *opaque)
{
    struct progress_json *j = opaque;
    pthread_mutex_lock(&j->lock);
    while (!j->begun && !j->over)
        pthread_cond_wait(&j->changed, &j->lock);
    while (!j->over) {
        write_line(j);
        wait_a_second(j);
    }
    if (j->succeeded) {
        j->done = j->total;
        write_line(j);
    }
    pthread_mutex_unlock(&j->lock);
    return NULL;
}

int progress_json_start(struct progress_json *j, int fd, const char *phase)
{
    pthread_condattr_t clock;
    sigset_t all, before;
    *j = (struct progress_json){.fd = fd, .phase = phase, .phase_start = now()};
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&j->changed, &clock);
    pthread_condattr_destroy(&clock);
    pthread_mutex_init(&j->lock, NULL);
    sigfillset(&all); /* signals are for the thread that works */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    errno = pthread_create(&j->thread, NULL, run, j);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return errno ? -1 : 0;
}

void progress_json_update(struct progress_json *j, const char *phase, uint64_t done, uint64_t total)
{
    pthread_mutex_lock(&j->lock);
    if (!j->begun || strcmp(j->phase, phase)) {
        j->phase_done = done;
        j->phase_start = now();
    }
    j->phase = phase;
    j->done = done;
    j->total = total;
    if (!j->begun)
        pthread_cond_signal(&j->changed);
    j->begun = true;
    pthread_mutex_unlock(&j->lock);
}

void progress_json_zeroing(const struct progress_json *j, const char *device, const char *how)
{
    struct output o;
    FILE *out = output_start(&o);
    if (!out)
        return;
    fputs("{\"device\": ", out);
    json_print_string(out, device);
    fprintf(out, ", \"zeroing\": \"%s\"}\n", how);
    fflush(out);
    dprintf(j->fd, "%s", o.text);
    output_finish(&o, false);
}

void progress_json_end(struct progress_json *j, bool succeeded)
{
    pthread_mutex_lock(&j->lock);
    j->over = true;
    j->succeeded = succeeded;
    pthread_cond_signal(&j->changed);
    pthread_mutex_unlock(&j->lock);
    pthread_join(j->thread, NULL);
    pthread_cond_destroy(&j->changed);
    pthread_mutex_destroy(&j->lock);
}
