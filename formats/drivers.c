/* Every format, in the order in which they are asked. Raw is last: it takes any file. */
#include "lib/driver.h"

extern const struct driver qcow2_driver, raw_driver;
extern const struct driver qcow_driver, qed_driver, vmdk_driver, vdi_driver, vhdx_driver,
    vpc_driver, luks_driver, parallels_driver, iso_driver;

const struct driver *const drivers[] = {
    &qcow2_driver, &qcow_driver, &qed_driver,       &vmdk_driver, &vdi_driver, &vhdx_driver,
    &vpc_driver,   &luks_driver, &parallels_driver, &iso_driver,  &raw_driver, NULL,
};
