/* A key is asked for on the terminal. */
#ifndef TOOLS_MOUNT_PROMPT_H
#define TOOLS_MOUNT_PROMPT_H

/*
 * Prints QUESTION and reads a line that is not shown, on the terminal of this process. NULL: there
 * is no terminal, or a signal has come (signals.h), or nothing was typed. free() what it returns.
 */
char *prompt_key(const char *question);

#endif
