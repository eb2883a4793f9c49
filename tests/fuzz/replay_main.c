/*
 * Runs a fuzz target over files instead of under a fuzzer, with any compiler: once for every
 * regular file named on the command line, and for every one below a folder named there.
 *
 * Files above MAX_INPUT are left out: no fuzzer would produce them. A crash leaves the name of
 * the file it happened in as the last line of output.
 */
#include <sys/types.h>
#include <sys/stat.h>
#include <fts.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_INPUT (4 * 1024 * 1024)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A block of exactly the file's size, so that sanitizers see the first byte past it. */
static int replay(const char *path, size_t size)
{
    uint8_t *data = malloc(size ? size : 1);
    FILE *f = fopen(path, "rb");
    int ret = -1;

    if (data && f && fread(data, 1, size, f) == size) {
        printf("%s\n", path);
        fflush(stdout);
        LLVMFuzzerTestOneInput(data, size);
        ret = 0;
    } else {
        perror(path);
    }
    if (f)
        fclose(f);
    free(data);
    return ret;
}

int main(int argc, char **argv)
{
    unsigned run = 0, large = 0, failed = 0;
    FTS *fts;
    FTSENT *e;

    if (argc < 2) {
        fprintf(stderr, "usage: %s FILE|FOLDER...\n", argv[0]);
        return 2;
    }
    fts = fts_open(argv + 1, FTS_LOGICAL | FTS_NOCHDIR, NULL);
    if (!fts) {
        perror("fts_open");
        return 1;
    }
    while ((e = fts_read(fts))) {
        if (e->fts_info == FTS_NS || e->fts_info == FTS_DNR || e->fts_info == FTS_ERR) {
            fprintf(stderr, "%s: cannot be read\n", e->fts_path);
            failed++;
        } else if (e->fts_info == FTS_F) {
            if (e->fts_statp->st_size > MAX_INPUT)
                large++;
            else if (replay(e->fts_accpath, (size_t)e->fts_statp->st_size) < 0)
                failed++;
            else
                run++;
        }
    }
    fts_close(fts);
    printf("%u inputs, %u too large, %u failed\n", run, large, failed);
    return failed || !run;
}
