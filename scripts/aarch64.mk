# aarch64.mk: the portable arithmetic and its tests for another processor, linked statically so
# that qemu-user runs them with nothing of that system installed.
#
#   make -f scripts/aarch64.mk BUILD=build/aarch64 CC=aarch64-linux-gnu-gcc
#
# There is no jansson and no Google Test for it: what needs jansson stays out of the archive, and
# tests/shim_plain.c stands in for the runner.
CC     := aarch64-linux-gnu-gcc
BUILD  := build/aarch64
FLAGS  := -std=c11 -O2 -g -ffp-contract=off -fopenmp -Wall -Wextra -Wconversion -Wshadow -Werror \
          -I. -Iinclude -MMD -MP -D_GNU_SOURCE -DNIB_BUILD_DIR='"$(BUILD)"'

reach   = $(shell $(CC) -I. -Iinclude -D_GNU_SOURCE -MM $(1) 2>/dev/null)
# A source without jansson; a test of arithmetic: it reaches a format, and no file or tool.
library = $(foreach f,$(1),$(if $(findstring jansson,$(shell cat $(f)))$(findstring json_util,\
            $(call reach,$(f))),,$(f)))
arithmetic = $(foreach f,$(1),$(call is_arithmetic,$(f),$(call reach,$(f))))
is_arithmetic = $(if $(findstring host/io,$(2))$(findstring checkpoint.h,$(2))$(findstring \
            json_util,$(2)),,$(if $(findstring kernels/common,$(2))$(findstring \
            nibble/format.h,$(2)),$(1)))

LIB_SRC  := $(call library,$(wildcard host/*.c kernels/cpu/*.c))
TEST_SRC := $(call arithmetic,$(filter-out tests/shim_plain.c,$(wildcard tests/*.c)))
obj       = $(patsubst %,$(BUILD)/%.o,$(1))

$(BUILD)/tests/all: $(call obj,$(TEST_SRC) tests/shim_plain.c) $(BUILD)/libnibble.a
	$(CC) -static -fopenmp -o $@ $^ -lm
$(BUILD)/libnibble.a: $(call obj,$(LIB_SRC))
	rm -f $@ && ar rcs $@ $^
$(BUILD)/%.c.o: %.c
	@mkdir -p $(@D)
	$(CC) $(FLAGS) -c $< -o $@
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
