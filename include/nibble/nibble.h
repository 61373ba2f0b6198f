/* nibble.h: includes every public header, so that a user needs one line. */
#ifndef NIBBLE_NIBBLE_H
#define NIBBLE_NIBBLE_H

#include "nibble/calibrate.h"
#include "nibble/checkpoint.h"
#include "nibble/device.h"
#include "nibble/fakequant.h"
#include "nibble/format.h"
#include "nibble/gemm.h"
#include "nibble/gptq.h"
#include "nibble/grouped.h"
#include "nibble/hessian.h"
#include "nibble/int_format.h"
#include "nibble/monitor.h"
#include "nibble/policy.h"
#include "nibble/quantize.h"
#include "nibble/schedule.h"
#include "nibble/status.h"
#include "nibble/step_codes.h"
#include "nibble/steps.h"
#include "nibble/transform.h"
#include "nibble/version.h"

#endif
