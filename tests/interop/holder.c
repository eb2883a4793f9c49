/*
 * holder: keeps an image open through libimgtool.
 *
 *   holder [-f FMT] [-n] [-U] [-w] IMAGE
 *
 * Opens IMAGE with its chain, prints "open", and closes it at the end of standard input.
 *
 *   -f FMT   the format, instead of looking at the file
 *   -n       metadata only (IMG_OPEN_NO_DATA)
 *   -U       share the image with a writer (IMG_OPEN_FORCE_SHARE)
 *   -w       to be written (IMG_OPEN_WRITE)
 */
#include <imgtool.h>

#include <stdio.h>
#include <unistd.h>

static int hold(const char *image, const struct img_open_options *options)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img *img;
    if (img_open(&img, image, options, &err) < 0) {
        fprintf(stderr, "holder: %s\n", img_error_message(&err));
        if (err.hint)
            fprintf(stderr, "%s\n", err.hint);
        img_error_clear(&err);
        return 1;
    }
    puts("open");
    fflush(stdout);
    while (getchar() != EOF)
        ;
    img_close(img);
    return 0;
}

int main(int argc, char **argv)
{
    struct img_open_options options = {0};
    int c;
    while ((c = getopt(argc, argv, "f:nUw")) != -1) {
        switch (c) {
        case 'f':
            options.format = optarg;
            break;
        case 'n':
            options.flags |= IMG_OPEN_NO_DATA;
            break;
        case 'U':
            options.flags |= IMG_OPEN_FORCE_SHARE;
            break;
        case 'w':
            options.flags |= IMG_OPEN_WRITE;
            break;
        default:
            return 2;
        }
    }
    if (optind != argc - 1) {
        fprintf(stderr, "usage: holder [-f FMT] [-n] [-U] [-w] IMAGE\n");
        return 2;
    }
    return hold(argv[optind], &options);
}
