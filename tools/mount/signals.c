#include "signals.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

static atomic_bool pending;
static _Atomic(const char *) mounted;
static atomic_bool ends_appliance = true;

static void fill(sigset_t *set)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    sigemptyset(set);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        sigaddset(set, signals[i]);
}

bool signals_pending(void)
{
    return pending;
}

void signals_ignore(void)
{
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
}

int unmount_fuse(const char *dir, bool quiet)
{
    extern char **environ;
    char *words[] = {(char[]){"fusermount"}, (char[]){"-u"}, (char[]){"--"}, (char *)(uintptr_t)dir,
                     NULL};
    posix_spawn_file_actions_t actions;
    sigset_t none;
    posix_spawnattr_t attributes;
    pid_t pid;
    int status = -1;
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    sigemptyset(&none);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    if (quiet)
        posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    int failed = posix_spawnp(&pid, "fusermount", &actions, &attributes, words, environ);
    if (failed == ENOENT)
        failed = posix_spawnp(&pid, "fusermount3", &actions, &attributes, words, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    if (!failed && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && !WEXITSTATUS(status))
        return 0;
    return failed && umount2(dir, UMOUNT_NOFOLLOW) == 0 ? 0 : -1;
}

/* QEMU is a child of this process; asked to end, it closes the image. false: it does not run. */
static bool end_appliance(void)
{
    bool found = false;
    DIR *tasks = opendir("/proc/self/task");
    for (struct dirent *e; tasks && (e = readdir(tasks));) {
        char path[64], name[64];
        int pid;
        snprintf(path, sizeof path, "/proc/self/task/%.20s/children", e->d_name);
        FILE *children = e->d_name[0] == '.' ? NULL : fopen(path, "re");
        while (children && fscanf(children, "%d", &pid) == 1) {
            snprintf(path, sizeof path, "/proc/%d/comm", pid);
            FILE *comm = fopen(path, "re");
            if (comm && fgets(name, sizeof name, comm) && strstr(name, "qemu"))
                found |= kill(pid, SIGTERM) == 0;
            if (comm)
                fclose(comm);
        }
        if (children)
            fclose(children);
    }
    if (tasks)
        closedir(tasks);
    return found;
}

/* false: there is nothing to end yet. */
static bool end(void)
{
    const char *dir = mounted;
    if (dir)
        unmount_fuse(dir, false);
    return dir || !ends_appliance || end_appliance();
}

static void *wait_for_signals(void *opaque)
{
    sigset_t set;
    int number;
    (void)opaque;
    fill(&set);
    while (sigwait(&set, &number) == 0) {
        pending = true;
        while (!end()) /* what QEMU is to start from is still being made */
            usleep(100000);
    }
    return NULL;
}

void signals_start(void)
{
    sigset_t set;
    pthread_t thread;
    fill(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (pthread_create(&thread, NULL, wait_for_signals, NULL) == 0)
        pthread_detach(thread);
    else
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

void signals_unmount(const char *dir)
{
    mounted = dir;
    ends_appliance = false;
}
