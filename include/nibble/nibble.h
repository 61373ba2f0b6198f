/* nibble.h: includes every public header, so that a user needs one line. */
#ifndef NIBBLE_NIBBLE_H
#define NIBBLE_NIBBLE_H

#include "nibble/checkpoint.h"
#include "nibble/device.h"
#include "nibble/format.h"
#include "nibble/quantize.h"
#include "nibble/status.h"
#include "nibble/version.h"

#endif
