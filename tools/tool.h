/* What every command shares: how it was called, how it complains, how it reads its options. */
#ifndef TOOLS_TOOL_H
#define TOOLS_TOOL_H

#include <getopt.h>
#include <imgtool.h>

struct tool {
    const char *program; /* the name it was called by: "imgtool", or "qemu-img" through a link */
    const char *command; /* "info"; NULL before it is known */
    bool as_qemu;        /* called as qemu-img: say what qemu-img says, and nothing more */
    struct progress *progress; /* of the command; NULL: it shows none */
};

struct command {
    const char *name;
    const char *summary;
    const char *usage; /* what --help prints after the summary */
    int (*run)(struct tool *tool, int argc, char **argv);
};

/* All commands, ends with a NULL name. Defined in imgtool.c. */
extern const struct command commands[];

/* Prints "PROGRAM: MESSAGE" on standard error; returns 1, the exit code of every such failure. */
int tool_error(const struct tool *tool, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Says where the options are explained. Returns 1. */
int tool_point_to_help(const struct tool *tool);

/* The same, with the way to the command's help behind it. */
int tool_usage_error(const struct tool *tool, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* Prints a library error with its context and hint, clears it, returns 1. */
int tool_report(const struct tool *tool, struct img_error *err);

/* For img_open_options.warn; OPAQUE is the tool. qemu-img is silent where imgtool warns. */
void tool_warn(void *opaque, enum img_warning warning, const char *message);

/* For img_open_options.progress; OPAQUE is the tool. */
void tool_progress(void *opaque, const char *phase, uint64_t done, uint64_t total);

/* Sets what every open has in common. */
void tool_open_options(struct tool *tool, struct img_open_options *options);

/* The same for an image that is to be changed: from now on Ctrl-C and its like end a change
 * cleanly, and the command has to end with interrupt_die (interrupt.h). */
void tool_change_options(struct tool *tool, struct img_open_options *options);

/* Prints the command's help. */
void tool_help(const struct tool *tool);

/*
 * getopt_long in qemu-img's voice: unknown options end in a pointer to --help, -h prints it.
 * Returns -1 at the end of the options, TOOL_STOP when the command is over (*EXIT_CODE then says
 * how), else the option.
 */
enum { TOOL_STOP = -2 };
int tool_getopt(struct tool *tool, int argc, char **argv, const char *short_options,
                const struct option *long_options, int *exit_code);

/* "human" or "json" into *JSON; complains otherwise. */
int tool_output_format(struct tool *tool, const char *value, bool *json);

/* A size such as 64k, 1.5G or 0x200; NAME is what it is for. Complains when it is none. */
int tool_size(struct tool *tool, const char *name, const char *value, uint64_t *out);

/* The same, LEAST to MOST. */
int tool_size_between(struct tool *tool, const char *name, const char *value, uint64_t least,
                      uint64_t most, uint64_t *out);
/* A number without a suffix; also hexadecimal after 0x, octal after 0. */
int tool_number(struct tool *tool, const char *name, const char *value, uint64_t least,
                uint64_t most, uint64_t *out);

/* Is MODE one of QEMU's cache modes? */
bool tool_is_cache_mode(const char *mode);
/* Is it one past the host's cache? NULL is none. */
bool tool_cache_is_direct(const char *mode);

#endif
