# nibble. Variables, rules, targets; probes nothing but nvcc's presence.
#
#   make              libraries and tools                 make test        everything CI checks fast
#   make quickstart   quantize a real model               make help        all targets
PREFIX   ?= /usr/local
DESTDIR  ?=
CC       ?= gcc
CXX      ?= g++
SAN      ?=
BUILD    ?= build
V        ?= 0
Q        := $(if $(filter 1,$(V)),,@)

VERSION  := $(shell awk '/define NIB_VERSION_/ {v = v s $$3; s = "."} END {print v}' \
              include/nibble/version.h)
COMMIT   := $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)

CPPFLAGS += -I. -Iinclude -MMD -MP -D_GNU_SOURCE
WARN     := -Wall -Wextra -Wconversion -Wshadow -Werror
# kernels/common promises the same bits everywhere: no contraction, no fast-math.
CFLAGS   += -std=c11 -O2 -g -fPIC -fvisibility=hidden -ffp-contract=off -fopenmp $(WARN) $(SAN)
CXXFLAGS += -std=c++17 -O2 -g -Wall -Wextra -Werror $(SAN)
LDLIBS   := -ljansson -lm

LIB_SRC  := $(wildcard host/*.c host/io/*.c kernels/cpu/*.c)
TEST_SRC := $(wildcard tests/*_test.c)
obj       = $(patsubst %,$(BUILD)/%.o,$(1))

LIB_A    := $(BUILD)/libnibble.a
TESTS    := $(BUILD)/tests/all

.PHONY: all test check clean
all: $(LIB_A)

$(LIB_A): $(call obj,$(LIB_SRC))
	$(Q)rm -f $@ && ar rcs $@ $^

$(TESTS): $(call obj,$(TEST_SRC) tests/shim.cc) $(LIB_A)
	$(Q)$(CXX) $(CXXFLAGS) -fopenmp -o $@ $^ -lgtest -lgtest_main -lpthread $(LDLIBS)

# The only file that may use AVX2 instructions; called after a check of the processor.
$(BUILD)/%_avx2.c.o: CFLAGS += $(AVX2_FLAGS)
ifneq ($(filter x86_64%,$(shell $(CC) -dumpmachine)),)
AVX2_FLAGS := -mavx2 -mfma -mf16c
endif

$(BUILD)/%.c.o: %.c
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -c $< -o $@
$(BUILD)/%.cc.o: %.cc
	@mkdir -p $(@D)
	$(Q)$(CXX) $(CPPFLAGS) $(CXXFLAGS) -c $< -o $@

test check: $(TESTS)
	$<

clean:
	rm -rf $(BUILD)

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
