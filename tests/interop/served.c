/*
 * Loaded into QEMU's programs with LD_PRELOAD: called as `qemu-img serve-tests FD`, the program is
 * loaded once and then is what it is asked to be, again and again, each time in a fork of its own.
 * Loading takes more than twice what most commands do. served.py is the client.
 *
 * FD is a SOCK_SEQPACKET socket, on which it says "ready" first. A request is the folder to work in
 * and the arguments from argv[0] on, each ended by a zero byte, with two descriptors, standard
 * output and standard error; the answer is an int, as waitpid gives it.
 *
 * This file is compiled alone, without sanitizers, since it lives inside programs that have none.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_REQUEST = 1 << 17, MAX_WORDS = 1 << 12 };

extern char **environ;

static int (*real_main)(int, char **, char **);
static char request[MAX_REQUEST + 1];

/* The length of the next request, and its descriptors; 0: there is none. */
static size_t receive(int fd, int *out)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(2 * sizeof(int))];
    } control;
    struct iovec v = {request, MAX_REQUEST};
    struct msghdr m = {
        .msg_iov = &v, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t n;
    while ((n = recvmsg(fd, &m, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR)
        ;
    struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;
    if (!c || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(2 * sizeof(int)) ||
        (m.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
        return 0;
    memcpy(out, CMSG_DATA(c), 2 * sizeof(int));
    request[n] = 0;
    return (size_t)n;
}

/* In the child: become the command. */
static void become(size_t length, const int *out, pid_t parent)
{
    static char *words[MAX_WORDS + 1];
    int count = 0, null = open("/dev/null", O_RDONLY);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent || chdir(request) < 0 || dup2(null, 0) < 0 || dup2(out[0], 1) < 0 ||
        dup2(out[1], 2) < 0)
        _exit(126);
    close(null);
    for (char *at = request + strlen(request) + 1; at < request + length && count < MAX_WORDS;
         at += strlen(at) + 1)
        words[count++] = at;
    exit(real_main(count, words, environ));
}

static int serve(int fd)
{
    int out[2];
    size_t length;
    pid_t self = getpid();
    unsetenv("LD_PRELOAD");
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    if (send(fd, "ready", 5, MSG_NOSIGNAL) != 5)
        return 1;
    while ((length = receive(fd, out)) > 0) {
        int status = 0;
        pid_t child = fork();
        if (child == 0) {
            close(fd);
            become(length, out, self);
        }
        close(out[0]);
        close(out[1]);
        if (child < 0)
            return 1;
        while (waitpid(child, &status, 0) < 0)
            if (errno != EINTR)
                return 1;
        if (send(fd, &status, sizeof status, MSG_NOSIGNAL) != sizeof status)
            return 1;
    }
    return 0;
}

static int chosen_main(int argc, char **argv, char **envp)
{
    if (argc == 3 && !strcmp(argv[1], "serve-tests"))
        return serve(atoi(argv[2]));
    return real_main(argc, argv, envp);
}

int __libc_start_main(int (*fn)(int, char **, char **), int argc, char **argv, void (*init)(void),
                      void (*fini)(void), void (*rtld_fini)(void), void *stack_end)
{
    int (*start)(int (*)(int, char **, char **), int, char **, void (*)(void), void (*)(void),
                 void (*)(void), void *);
    *(void **)&start = dlsym(RTLD_NEXT, "__libc_start_main");
    real_main = fn;
    return start(chosen_main, argc, argv, init, fini, rtld_fini, stack_end);
}
