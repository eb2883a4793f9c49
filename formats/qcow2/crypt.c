/* The LUKS header of an encrypted image, described; its data is not read. */
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/qcow2.h"
#include "lib/bytes.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* "xts-plain64", "cbc-essiv:sha256" into its parts. */
static int split_mode(struct img_encryption_info *e, const char *mode, struct img_error *err)
{
    const char *dash = strchr(mode, '-');
    if (!dash)
        return img_fail(err, EINVAL, "Unexpected cipher mode string format '%s'", mode);
    snprintf(e->cipher_mode, sizeof e->cipher_mode, "%.*s", (int)(dash - mode), mode);
    const char *colon = strchr(dash, ':');
    size_t ivgen = colon ? (size_t)(colon - dash - 1) : strlen(dash + 1);
    snprintf(e->ivgen_alg, sizeof e->ivgen_alg, "%.*s", (int)ivgen, dash + 1);
    if (colon)
        snprintf(e->ivgen_hash_alg, sizeof e->ivgen_hash_alg, "%s", colon + 1);
    return 0;
}

/* A fixed field may lack its NUL. */
#define FIELD(d) (int)sizeof(d), d

int qcow2_read_luks_header(struct qcow2 *q, struct img_error *err)
{
    static const uint8_t magic[6] = {'L', 'U', 'K', 'S', 0xba, 0xbe};
    struct img_encryption_info *e = &q->encryption;
    struct ondisk_luks d;
    int ret = file_read(q->file, &d, sizeof d, host(q->ext.crypto_offset), err);
    if (ret < 0)
        return img_prefix(err, ret, "Unable to read LUKS header: ");
    if (memcmp(d.magic, magic, sizeof magic))
        return img_fail(err, EINVAL,
                        "Volume is not in LUKS format (encryption header at %#" PRIx64 ")",
                        q->ext.crypto_offset);
    if (load_be16(d.version) != 1)
        return img_fail(err, ENOTSUP, "LUKS version %u is not supported", load_be16(d.version));
    char mode[sizeof d.cipher_mode + 1];
    snprintf(mode, sizeof mode, "%.*s", FIELD(d.cipher_mode));
    ret = split_mode(e, mode, err);
    if (ret < 0)
        return ret;
    uint32_t bits = load_be32(d.key_bytes) * 8;
    if (!strcmp(e->cipher_mode, "xts"))
        bits /= 2; /* half of the key is the tweak's */
    snprintf(e->cipher_alg, sizeof e->cipher_alg, "%.*s-%" PRIu32, 28, d.cipher_name, bits);
    snprintf(e->hash_alg, sizeof e->hash_alg, "%.*s", FIELD(d.hash_spec));
    snprintf(e->uuid, sizeof e->uuid, "%.*s", FIELD(d.uuid));
    e->luks = true;
    e->payload_offset = load_be32(d.payload_offset_sectors) * 512ull;
    e->master_key_iterations = load_be32(d.master_iterations);
    for (unsigned i = 0; i < IMG_LUKS_SLOTS; i++) {
        const struct ondisk_luks_slot *s = &d.slots[i];
        e->slots[i] = (struct img_luks_slot){
            .active = load_be32(s->active) == LUKS_SLOT_ACTIVE,
            .iterations = load_be32(s->iterations),
            .stripes = load_be32(s->stripes),
            .key_offset = load_be32(s->key_offset_sectors) * 512ull,
        };
    }
    return 0;
}
