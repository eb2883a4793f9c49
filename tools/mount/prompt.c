/* getpass() would go on waiting after Ctrl-C, which a thread of ours handles. */
#include "prompt.h"
#include "signals.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

enum { LINE = 4096, TICK = 100 };

static void say(int tty, const char *text)
{
    ssize_t sent = write(tty, text, strlen(text));
    (void)sent;
}

/* Until the line ends. Returns its length, without the newline; -1: there is none. */
static ssize_t read_line(int tty, char line[LINE])
{
    struct pollfd p = {.fd = tty, .events = POLLIN};
    while (!signals_pending()) {
        int ready = poll(&p, 1, TICK);
        if (ready < 0 && errno != EINTR)
            return -1;
        if (ready <= 0)
            continue;
        ssize_t got = read(tty, line, LINE);
        if (got <= 0)
            return -1;
        return line[got - 1] == '\n' ? got - 1 : got;
    }
    return -1;
}

char *prompt_key(const char *question)
{
    char line[LINE], *key = NULL;
    struct termios before, quiet;
    int tty = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
    if (tty < 0 || tcgetattr(tty, &before) < 0) {
        if (tty >= 0)
            close(tty);
        return NULL;
    }
    quiet = before;
    quiet.c_lflag = (quiet.c_lflag & ~(tcflag_t)(ECHO | ECHOE | ECHOK | ECHONL)) | ICANON | ISIG;
    tcsetattr(tty, TCSAFLUSH, &quiet);
    say(tty, question);
    ssize_t length = read_line(tty, line);
    if (length > 0)
        key = strndup(line, (size_t)length);
    explicit_bzero(line, sizeof line);
    tcsetattr(tty, TCSAFLUSH, &before);
    say(tty, "\n");
    close(tty);
    return key;
}
