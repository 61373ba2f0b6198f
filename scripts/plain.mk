# plain.mk: what needs neither jansson nor Google Test, for machines that have none of their
# packages: another processor's, whose programs qemu-user runs, and a borrowed one with a GPU.
#
#   make -f scripts/plain.mk both BUILD=build/aarch64 STATIC=-static \
#       CC=aarch64-linux-gnu-gcc CXX=aarch64-linux-gnu-g++
#   make -f scripts/plain.mk gpu BUILD=build/plain NVCC=nvcc CUDA_ARCHS=sm_90a CUDA_A=... CUDART=...
#
#   $(BUILD)/tests/all        the library's tests that reach no file and no tool
#   $(BUILD)/tests/emulated   the kernels on the emulator
#   $(BUILD)/tests/gpu        the same tests of kernels, compiled by nvcc
#
# What needs jansson stays out of the archive, and tests/shim_plain.c stands in for the runner.
CC     := gcc
CXX    := g++
BUILD  := build/plain
STATIC :=
OPT    := -O2 -g
WERROR := -Werror
COMMON := $(OPT) -ffp-contract=off -Wall -Wextra $(WERROR) -I. -Iinclude -MMD -MP -D_GNU_SOURCE \
          -DNIB_BUILD_DIR='"$(BUILD)"'
FLAGS  := -std=c11 -fopenmp -Wconversion -Wshadow $(COMMON)
EMU_FLAGS := -std=c++17 -Itests/emu/include $(COMMON)
EMU_OPT   := -O1 -g1
NVCCFLAGS := -std=c++17 -O2 -fmad=false -Xcompiler -ffp-contract=off -I. -Iinclude \
             $(if $(WERROR),-Werror all-warnings) \
             $(foreach a,$(CUDA_ARCHS),-gencode arch=$(a:sm_%=compute_%),code=$(a))

reach   = $(shell $(CC) -I. -Iinclude -D_GNU_SOURCE -M $(1) 2>/dev/null)
# A source without jansson; a test of arithmetic: it reaches a format, and no file or tool.
library = $(foreach f,$(1),$(if $(findstring jansson,$(shell cat $(f)))$(findstring json_util,\
            $(call reach,$(f))),,$(f)))
arithmetic = $(foreach f,$(1),$(call is_arithmetic,$(f),$(call reach,$(f))))
is_arithmetic = $(if $(findstring host/io,$(2))$(findstring checkpoint.h,$(2))$(findstring \
            json_util,$(2))$(findstring jansson.h,$(2)),,$(if $(findstring \
            kernels/common,$(2))$(findstring nibble/format.h,$(2)),$(1)))

LIB_SRC  := $(call library,$(wildcard host/*.c kernels/cpu/*.c))
TEST_SRC := $(call arithmetic,$(filter-out tests/shim_plain.c,$(wildcard tests/*.c)))
EMU_CU   := $(filter-out %/golden_kernels.cu,$(wildcard tests/emu/*.cu))
EMU_SRC  := $(wildcard tests/emu/*.cc kernels/cuda/*.cu) $(EMU_CU)
obj       = $(patsubst %,$(BUILD)/%.o,$(1))

.PHONY: both gpu
both: $(BUILD)/tests/all $(BUILD)/tests/emulated
gpu: $(BUILD)/tests/all $(BUILD)/tests/gpu
$(BUILD)/tests/all: $(call obj,$(TEST_SRC) tests/shim_plain.c) $(BUILD)/libnibble.a
	$(CC) $(STATIC) -fopenmp -o $@ $^ -lpthread -ldl -lm
# A static program cannot open libraries, and says so where the CUDA backend is looked for.
$(BUILD)/tests/emulated: $(call obj,$(EMU_SRC) tests/shim_plain.c) $(BUILD)/libnibble.a
	$(CXX) $(STATIC) -fopenmp -o $@ $^ -lpthread -ldl -lm
$(BUILD)/tests/gpu: $(EMU_CU:%=$(BUILD)/gpu/%.o) $(call obj,tests/shim_plain.c) $(CUDA_A) \
                    $(BUILD)/libnibble.a
	$(CXX) -fopenmp -o $@ $^ $(CUDART) -lpthread -ldl -lm
$(BUILD)/libnibble.a: $(call obj,$(LIB_SRC))
	rm -f $@ && ar rcs $@ $^
X86 := $(findstring x86_64,$(shell $(CC) -dumpmachine))
AVX2   := -mavx2 -mfma -mf16c
AVX512 := $(AVX2) -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni
$(BUILD)/%_avx2.c.o: FLAGS += $(if $(X86),$(AVX2))
$(BUILD)/%_avx512.c.o: FLAGS += $(if $(X86),$(AVX512))
$(BUILD)/%.c.o: %.c
	@mkdir -p $(@D)
	$(CC) $(FLAGS) -c $< -o $@
$(BUILD)/gpu/%.cu.o: %.cu
	@mkdir -p $(@D)
	$(NVCC) $(NVCCFLAGS) -MMD -MP -c $< -o $@
$(BUILD)/%.cc.o: %.cc
	@mkdir -p $(@D)
	$(CXX) $(EMU_FLAGS) -c $< -o $@
$(BUILD)/%.cu.o: %.cu
	@mkdir -p $(@D)
	$(CXX) $(EMU_FLAGS) $(EMU_OPT) -x c++ -c $< -o $@
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
