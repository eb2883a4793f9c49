/*
 * Advice on the backing chain: its length, and how its layers name each other.
 *
 * Every layer is looked at, top first; the command of a finding mends all of them.
 */
#include "lib/ops/advise.h"

#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* Commands beyond this many would not be read by anybody. */
enum { MAX_COMMANDS = 32 };

static const char *after_scheme(const char *name)
{
    return strncmp(name, "file:", 5) ? name : name + 5;
}

static bool is_remote(const char *name)
{
    name = after_scheme(name);
    return name[strcspn(name, ":/")] == ':';
}

/* The folder of PATH as the kernel knows it; NULL when it cannot be found. */
static char *real_folder(const char *path)
{
    char *copy = strdup(path);
    char *real = copy ? realpath(dirname(copy), NULL) : NULL;
    free(copy);
    return real;
}

/*
 * TARGET as a name relative to the folder of IMAGE. Both folders are made real first, so that ".."
 * means the same to everybody; TARGET's own last component stays, should it be a link.
 */
static char *relative_name(const char *image, const char *target)
{
    char *from = real_folder(image), *to = real_folder(target), *out = NULL;
    const char *name = strrchr(target, '/');
    FILE *text = NULL;
    size_t size, same = 0;
    if (!from || !to || !(text = open_memstream(&out, &size)))
        goto done;
    for (size_t i = 0;; i++) { /* the common components */
        bool end_a = !from[i] || from[i] == '/', end_b = !to[i] || to[i] == '/';
        if (end_a && end_b)
            same = i;
        if (!from[i] || !to[i] || from[i] != to[i])
            break;
    }
    const char *rest = from + same + strspn(from + same, "/");
    for (; *rest; rest += strspn(rest, "/")) {
        fputs("../", text);
        rest += strcspn(rest, "/");
    }
    rest = to + same + strspn(to + same, "/");
    fprintf(text, "%s%s%s", rest, *rest ? "/" : "", name ? name + 1 : target);
done:
    if (text && fclose(text)) {
        free(out);
        out = NULL;
    }
    free(from);
    free(to);
    return out;
}

/* The format of the file below layer I, or NULL. */
static const char *format_below(const struct advise_facts *x, size_t i)
{
    const char *named = x->chain.layers[i]->backing_format;
    if (named && *named)
        return named;
    return i + 1 < x->chain.count ? x->chain.layers[i + 1]->format : NULL;
}

/* "imgtool rebase ... -F FORMAT -b BACKING FILE"; false where a part of it is not known. */
static bool write_rebase(FILE *out, const struct advise_facts *x, size_t i, bool unsafe,
                         const char *format, const char *backing)
{
    const struct img_info *l = x->chain.layers[i];
    char *file = advise_quote_path(i ? l->file_name : x->path, "");
    char *name = backing ? advise_quote(backing) : NULL;
    bool ok = file && name && format;
    if (ok)
        fprintf(out, "%s rebase%s -f %s -F %s -b %s %s", x->program, unsafe ? " -u" : "", l->format,
                format, name, file);
    free(file);
    free(name);
    return ok;
}

typedef bool (*layer_test)(const struct img_info *l);

static bool lacks_format(const struct img_info *l)
{
    return l->backing_filename && (!l->backing_format || !*l->backing_format) &&
           strncmp(l->backing_filename, "json:", 5);
}

static bool is_absolute(const struct img_info *l)
{
    return l->backing_filename && *after_scheme(l->backing_filename) == '/';
}

/* One command for each layer that WRONG says, joined with "&&". */
static void fix_layers(struct advise_finding *f, const struct advise_facts *x, layer_test wrong,
                       bool make_relative)
{
    char *text = NULL;
    size_t size;
    unsigned n = 0;
    FILE *out = open_memstream(&text, &size);
    bool ok = out != NULL;
    for (size_t i = 0; ok && i < x->chain.count && n < MAX_COMMANDS; i++) {
        const struct img_info *l = x->chain.layers[i];
        if (!wrong(l))
            continue;
        char *relative = make_relative ? relative_name(i ? l->file_name : x->path,
                                                       after_scheme(l->backing_filename))
                                       : NULL;
        fputs(n++ ? " && " : "", out);
        ok = write_rebase(out, x, i, true, format_below(x, i),
                          make_relative ? relative : l->backing_filename);
        free(relative);
    }
    if (out && fclose(out))
        ok = false;
    if (ok) {
        advise_fix(f, text);
        return;
    }
    free(text);
    advise_why(f, " The file below is not there to look at, so that no command can be given.");
}

/* Counts the layers that WRONG says; *FIRST is the uppermost. */
static size_t count_layers(const struct advise_facts *x, layer_test wrong,
                           const struct img_info **first)
{
    size_t n = 0;
    for (size_t i = 0; i < x->chain.count; i++)
        if (wrong(x->chain.layers[i]))
            *first = n++ ? *first : x->chain.layers[i];
    return n;
}

static void found_layers(struct advise_finding *f, size_t n, const struct img_info *first,
                         const char *what)
{
    char more[48] = "";
    if (n > 1)
        snprintf(more, sizeof more, ", and %zu more layer%s", n - 1, n == 2 ? "" : "s");
    advise_found(f, IMG_ADVICE_ADVISED, "'%s' %s '%s'%s", first->filename, what,
                 first->backing_filename, more);
}

static bool no_backing(struct advise_finding *f, const struct advise_facts *x)
{
    if (advise_top(x)->backing_filename)
        return false;
    advise_found(f, IMG_ADVICE_NOT_APPLICABLE, "no backing file");
    return true;
}

void advise_backing_format(struct advise_finding *f, const struct advise_facts *x)
{
    const struct img_info *first = NULL;
    advise_why(f,
               "Without it the backing file is taken for what its first bytes look like, which a "
               "guest that writes to a raw disk decides.");
    if (no_backing(f, x))
        return;
    size_t n = count_layers(x, lacks_format, &first);
    if (!n) {
        advise_found(f, IMG_ADVICE_OK, "stated in every layer");
        return;
    }
    found_layers(f, n, first, "states no format for");
    fix_layers(f, x, lacks_format, false);
}

void advise_backing_path(struct advise_finding *f, const struct advise_facts *x)
{
    const struct img_info *first = NULL;
    advise_why(f,
               "A name relative to the overlay goes on working when the images are moved, copied "
               "or mounted elsewhere together.");
    if (no_backing(f, x))
        return;
    size_t n = count_layers(x, is_absolute, &first);
    if (n) {
        found_layers(f, n, first, "names its backing file by an absolute path,");
        fix_layers(f, x, is_absolute, true);
    } else {
        advise_found(f, IMG_ADVICE_OK,
                     is_remote(advise_top(x)->backing_filename) ? "not a path of this host"
                                                                : "relative in every layer");
    }
}

void advise_chain_depth(struct advise_finding *f, const struct advise_facts *x)
{
    static const size_t most[] = {[IMG_USE_GENERAL] = 5,
                                  [IMG_USE_DATABASE] = 3,
                                  [IMG_USE_SEQUENTIAL] = 3,
                                  [IMG_USE_OVERLAY] = 10};
    size_t n = x->chain.count;
    bool deep = n > most[x->use];
    advise_why(
        f,
        "A read of what no overlay holds asks every layer in turn, and each layer has a cache "
        "of tables of its own; %zu layers are still fine for this use.",
        most[x->use]);
    if (x->chain_error && !deep) {
        advise_found(f, IMG_ADVICE_UNKNOWN, "the chain cannot be followed: %s", x->chain_error);
        return;
    }
    advise_found(f, deep ? IMG_ADVICE_ADVISED : IMG_ADVICE_OK, "%s%zu layer%s",
                 x->chain_error ? "at least " : "", n, n == 1 ? "" : "s");
    if (!deep || x->chain_error)
        return;
    /* all between the top and the base goes into the top */
    const struct img_info *base = x->chain.layers[n - 1];
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    char *relative = relative_name(x->path, base->file_name);
    bool ok = out && write_rebase(out, x, 0, false, base->format, relative);
    if (out && fclose(out))
        ok = false;
    free(relative);
    advise_fix(f, ok ? text : NULL);
    if (!ok)
        free(text);
}
