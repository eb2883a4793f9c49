/* Header extensions: each limit, and one past it. */
#include "make_qcow2.h"

#include <stdio.h>

static struct image small(void)
{
    return make_qcow2(3, 12, 4 << 20, 0);
}

static void extension_area_is_the_limit(void **state)
{
    (void)state;
    struct image m = small();
    char *zeroes = calloc(1, 4096);
    /* header 112, extension header 8: 3976 bytes are left in the cluster */
    image_extend(&m, 0x12345678, zeroes, 3976);
    expect_opens(&m, 0);
    store_be32(m.data + 112 + 4, 3977);
    expect_open(
        &m, 0, EINVAL,
        "Header extension too large (type 0x12345678, length 3977, the area ends at 0x1000)");
    store_be32(m.data + 112 + 4, UINT32_MAX);
    expect_open(&m, 0, EINVAL,
                "Header extension too large (type 0x12345678, length 4294967295, the area ends at "
                "0x1000)");
    /* seven bytes are left: not enough to say what comes next */
    store_be32(m.data + 112 + 4, 3968);
    store_be32(m.data + 112 + 8 + 3968, 0);
    expect_opens(&m, 0);
    /* a backing name ends the area */
    image_set_backing(&m, "base2.img");
    expect_open(
        &m, IMG_OPEN_NO_BACKING, EINVAL,
        "Header extension too large (type 0x12345678, length 3968, the area ends at 0xff7)");
    SET64(&m, backing_file_offset, 116);
    expect_open(&m, IMG_OPEN_NO_BACKING, EINVAL,
                "Header extension too large (it begins at 0x70, the area ends at 0x74)");
    free(zeroes);
    image_free(&m);
}

static void the_end_marker_ends(void **state)
{
    (void)state;
    struct image m = small();
    image_extend(&m, EXT_END, NULL, 0);
    image_extend(&m, EXT_BACKING_FORMAT, "much too long a name", 20);
    expect_opens(&m, 0);
    store_be32(m.data + 112 + 4, 5); /* its length says nothing */
    expect_opens(&m, 0);
    image_free(&m);
}

static void backing_format(void **state)
{
    (void)state;
    struct image m = small();
    image_set_backing(&m, "base.img");
    image_extend(&m, EXT_BACKING_FORMAT, "123456789012345", 15);
    struct img *img = image_open(&m, 0);
    assert_string_equal(img->layers[0]->backing_format, "123456789012345");
    assert_string_equal(img->layers[0]->backing_name, "base.img");
    img_close(img);
    store_be32(m.data + 112 + 4, 16);
    expect_open(&m, 0, EINVAL, "ERROR: ext_backing_format: len=16 too large (>=16)");
    image_free(&m);
}

static void given_twice(void **state)
{
    (void)state;
    struct image m = small();
    image_extend(&m, EXT_BACKING_FORMAT, "raw", 3);
    image_extend(&m, EXT_BACKING_FORMAT, "qcow2", 5);
    struct img *img = image_open(&m, 0); /* the last one counts */
    assert_string_equal(img->layers[0]->backing_format, "qcow2");
    img_close(img);
    image_free(&m);
}

static void text_after_a_nul_byte(void **state)
{
    (void)state;
    struct image m = small();
    image_extend(&m, EXT_BACKING_FORMAT, "raw\0\0\0", 6);
    expect_opens(&m, 0);
    m.data[112 + 8 + 5] = 'x';
    expect_open(&m, 0, EINVAL, "Backing format 'raw' goes on after a NUL byte (length 6)");
    image_free(&m);
}

static void backing_name_length(void **state)
{
    (void)state;
    char name[1025];
    memset(name, 'n', sizeof name);
    name[1024] = 0;
    struct image m = small();
    image_set_backing(&m, name);
    expect_open(&m, 0, EINVAL, "Backing file name too long (1024 bytes, at most 1023)");
    image_set_backing(&m, name + 1);
    expect_opens(&m, 0);
    SET64(&m, backing_file_offset, 4096 - 10);
    SET32(&m, backing_file_size, 11);
    expect_open(&m, 0, EINVAL, "Backing file name too long (11 bytes, at most 10)");
    image_free(&m);
}

static void data_file_name(void **state)
{
    (void)state;
    char name[4097];
    memset(name, 'd', sizeof name);
    struct image m = make_qcow2(3, 16, 4 << 20, INCOMPAT_DATA_FILE);
    image_extend(&m, EXT_DATA_FILE, name, 4096);
    expect_open(&m, 0, EINVAL, "Data file name too long (4096 bytes, at most 4095)");
    store_be32(m.data + 112 + 4, 4095);
    struct img *img = image_open(&m, 0);
    assert_int_equal(strlen(img->layers[0]->data_file_name), 4095);
    img_close(img);
    image_free(&m);

    /* a name without its feature bit is only words */
    m = small();
    image_extend(&m, EXT_DATA_FILE, "x", 1);
    img = image_open(&m, 0);
    assert_null(img->layers[0]->data_file_name);
    img_close(img);
    image_free(&m);

    m = make_qcow2(3, 12, 4 << 20, INCOMPAT_DATA_FILE);
    image_extend(&m, EXT_DATA_FILE, "x", 1);
    SET64(&m, autoclear_features, AUTOCLEAR_DATA_FILE_RAW);
    expect_opens(&m, 0);
    image_set_backing(&m, "base.img");
    expect_open(&m, 0, EINVAL, "data-file-raw forbids a backing file ('base.img')");
    image_free(&m);

    /* to describe an image, its data file is not needed, nor its name */
    m = make_qcow2(3, 12, 4 << 20, INCOMPAT_DATA_FILE);
    expect_opens(&m, IMG_OPEN_NO_DATA);
    image_free(&m);
}

static void crypto_pointer(void **state)
{
    (void)state;
    struct image m = small();
    struct ondisk_crypto d = {0};
    size_t luks = image_grow(&m, 1);
    store_be64(d.offset, luks);
    store_be64(d.length, 4096);
    image_extend(&m, EXT_CRYPTO, &d, sizeof d);
    expect_open(&m, IMG_OPEN_NO_DATA, EINVAL,
                "CRYPTO header extension only expected with LUKS encryption method (crypt_method "
                "0)");
    SET32(&m, crypt_method, CRYPT_LUKS);
    expect_open(&m, IMG_OPEN_NO_DATA, EINVAL,
                "Volume is not in LUKS format (encryption header at 0x5000)");
    store_be64(m.data + 112 + 8, luks + 512);
    expect_open(&m, IMG_OPEN_NO_DATA, EINVAL,
                "Encryption header offset '20992' is not a multiple of cluster size '4096'");
    store_be64(m.data + 112 + 8, luks);
    store_be64(m.data + 112 + 16, 4097);
    expect_open(&m, IMG_OPEN_NO_DATA, EINVAL,
                "Encryption header lies outside the file (offset 20480, length 4097)");
    store_be64(m.data + 112 + 16, UINT64_MAX);
    expect_open(&m, IMG_OPEN_NO_DATA, EINVAL,
                "Encryption header lies outside the file (offset 20480, length "
                "18446744073709551615)");
    store_be32(m.data + 112 + 4, 15);
    expect_open(&m, IMG_OPEN_NO_DATA, EINVAL,
                "CRYPTO header extension size 15, but expected size 16");
    image_free(&m);
}

static struct image with_luks(struct ondisk_luks *d)
{
    struct image m = small();
    struct ondisk_crypto pointer;
    size_t at = image_grow(&m, 1);
    store_be64(pointer.offset, at);
    store_be64(pointer.length, 4096);
    image_extend(&m, EXT_CRYPTO, &pointer, sizeof pointer);
    SET32(&m, crypt_method, CRYPT_LUKS);
    memcpy(m.data + at, d, sizeof *d);
    return m;
}

static void luks_header(void **state)
{
    (void)state;
    struct ondisk_luks d = {.magic = {'L', 'U', 'K', 'S', 0xba, 0xbe}};
    store_be16(d.version, 1);
    strcpy(d.cipher_name, "aes");
    strcpy(d.cipher_mode, "xts-essiv:sha256");
    strcpy(d.hash_spec, "sha256");
    strcpy(d.uuid, "11111111-2222-3333-4444-555555555555");
    store_be32(d.key_bytes, 64);
    store_be32(d.payload_offset_sectors, 8);
    store_be32(d.slots[2].active, LUKS_SLOT_ACTIVE);
    store_be32(d.slots[2].iterations, 1234);
    struct image m = with_luks(&d);
    struct img *img = image_open(&m, IMG_OPEN_NO_DATA);
    struct img_info *info;
    assert_int_equal(img_describe(img, 0, &info, NULL), 0);
    const struct img_encryption_info *e = &info->encryption;
    assert_true(info->encrypted && e->luks);
    assert_string_equal(e->cipher_alg, "aes-256");
    assert_string_equal(e->cipher_mode, "xts");
    assert_string_equal(e->ivgen_alg, "essiv");
    assert_string_equal(e->ivgen_hash_alg, "sha256");
    assert_string_equal(e->hash_alg, "sha256");
    assert_string_equal(e->uuid, "11111111-2222-3333-4444-555555555555");
    assert_int_equal(e->payload_offset, 4096);
    assert_false(e->slots[1].active);
    assert_true(e->slots[2].active);
    assert_int_equal(e->slots[2].iterations, 1234);
    img_info_free(info);
    img_close(img);
    expect_open(&m, 0, ENOTSUP, "Parameter 'encrypt.key-secret' is required for cipher");
    image_free(&m);

    /* fields without an end: all bytes are used, none beyond */
    memset(d.cipher_name, 'c', sizeof d.cipher_name);
    memset(d.cipher_mode, 'm', sizeof d.cipher_mode);
    memset(d.hash_spec, 'h', sizeof d.hash_spec);
    memset(d.uuid, 'u', sizeof d.uuid);
    d.cipher_mode[30] = '-';
    m = with_luks(&d);
    expect_opens(&m, IMG_OPEN_NO_DATA);
    image_free(&m);

    d.cipher_mode[30] = 'm';
    m = with_luks(&d);
    expect_open(&m, IMG_OPEN_NO_DATA, EINVAL,
                "Unexpected cipher mode string format 'mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm'");
    image_free(&m);

    store_be16(d.version, 2);
    m = with_luks(&d);
    expect_open(&m, IMG_OPEN_NO_DATA, ENOTSUP, "LUKS version 2 is not supported");
    image_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(extension_area_is_the_limit),
        cmocka_unit_test(the_end_marker_ends),
        cmocka_unit_test(backing_format),
        cmocka_unit_test(given_twice),
        cmocka_unit_test(text_after_a_nul_byte),
        cmocka_unit_test(backing_name_length),
        cmocka_unit_test(data_file_name),
        cmocka_unit_test(crypto_pointer),
        cmocka_unit_test(luks_header),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
