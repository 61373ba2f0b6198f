# nibble. Variables, rules, targets. Probes the compiler's processor and, in cuda.mk, for nvcc.
#
#   make              library, tools, CUDA backend  make test      what a change must pass
#   make quickstart   quantize a real model         make help      all targets
#
# BUILD= folder   CC= CXX= CFLAGS= LDFLAGS= as usual   V=1 shows commands   PREFIX= DESTDIR= libdir=
PREFIX   ?= /usr/local
DESTDIR  ?=
bindir     ?= $(PREFIX)/bin
libdir     ?= $(PREFIX)/lib
includedir ?= $(PREFIX)/include
ifeq ($(origin CC),default)
CC       := gcc
endif
ifeq ($(origin CXX),default)
CXX      := g++
endif
CFLAGS   ?= -O2 -g
CXXFLAGS ?= -O2 -g
BUILD    ?= build
SAN      ?=
CUDA     ?= auto
CUDA_HOME ?= /usr/local/cuda
# Profilers see the public calls if NVTX's headers, which come with the toolkit, are there.
NVTX     ?= $(wildcard $(CUDA_HOME)/include/nvtx3/nvToolsExtPayload.h)
V        ?= 0
Q        := $(if $(filter 1,$(V)),,@)

VERSION  := $(shell awk '/define NIB_VERSION_/ {v = v s $$3; s = "."} END {print v}' \
              include/nibble/version.h)
SONAME   := libnibble.so.$(firstword $(subst ., ,$(VERSION)))
COMMIT   := $(or $(NIB_COMMIT),$(shell git rev-parse --short HEAD 2>/dev/null || echo unknown))
PROCESSOR := $(firstword $(subst -, ,$(shell $(CC) -dumpmachine 2>/dev/null)))

# WERROR= builds on with a compiler that warns of more than those that the tests use. Some warnings
# come and go with the optimisation: CFLAGS of the user's own do not make them errors.
WERROR   ?= $(if $(filter file,$(origin CFLAGS)),-Werror)
WARN     := -Wall -Wextra -Wconversion -Wshadow $(WERROR)
# kernels/common promises the same bits everywhere: no contraction, no fast-math.
# The version script hides what is not public, so that calls inside the library stay direct.
ALL_CPPFLAGS = -I. -Iinclude -MMD -MP -D_GNU_SOURCE $(CPPFLAGS)
ALL_CFLAGS   = -std=c11 -fPIC -ffp-contract=off -fno-semantic-interposition -fopenmp $(WARN) \
               $(CFLAGS) $(SAN)
ALL_CXXFLAGS = -std=c++17 -Wall -Wextra $(WERROR) $(CXXFLAGS) $(SAN)
LDLIBS   := -ljansson -lpthread -ldl -lm
RUNPATH  := -Wl,-rpath,'$$ORIGIN/../lib'
OBJCOPY  ?= $(shell $(CC) -print-prog-name=objcopy)

PUBLIC_H := $(wildcard include/nibble/*.h)
LIB_SRC  := $(wildcard host/*.c host/io/*.c host/model/*.c kernels/cpu/*.c)
TOOL_SRC := $(wildcard host/tools/tool_*.c)
NIBBLE_SRC := $(wildcard host/tools/nibble*.c)
QBENCH_SRC := $(wildcard host/tools/qbench*.c)
QAT_SRC  := $(wildcard host/tools/qat*.c)
TEST_SRC := $(filter-out tests/shim_plain.c tests/nvtx_recorder.c,\
              $(wildcard tests/*.c tests/*_test.cc))
FUZZ_SRC := $(wildcard tests/fuzz/*_fuzz.c)
obj       = $(patsubst %,$(BUILD)/%.o,$(1))

LIB_A    := $(BUILD)/libnibble.a
LIB_SO   := $(BUILD)/libnibble.so
TOOLS    := $(if $(NIBBLE_SRC),$(BUILD)/nibble) $(if $(QBENCH_SRC),$(BUILD)/qbench)
TESTS    := $(BUILD)/tests/all
NVTX_RECORDER := $(if $(NVTX),$(BUILD)/tests/nvtx_recorder.so)
FUZZERS  := $(patsubst tests/fuzz/%.c,$(BUILD)/%,$(FUZZ_SRC))
export BUILD CC CXX

.PHONY: all
.DEFAULT_GOAL := all
include scripts/cuda.mk
## all: the library, shared and static, the tools and the CUDA backend if it can (the default)
all: $(LIB_A) $(TOOLS) $(LIB_SO) $(CUDA_SO) $(CUDA_A) $(if $(filter 1,$(CUDA)),cuda)
	@echo "nibble $(VERSION) is in $(BUILD)/; CUDA backend: $(CUDA_SAYS)"

$(LIB_A): $(call obj,$(LIB_SRC))
	$(Q)rm -f $@ && ar rcs $@ $^

# exports.sh reads the public functions from the headers, so that the list has one source.
$(BUILD)/libnibble.map: scripts/exports.sh $(PUBLIC_H)
	@mkdir -p $(@D)
	$(Q)scripts/exports.sh --map > $@.new && mv $@.new $@

$(LIB_SO).$(VERSION): $(call obj,$(LIB_SRC)) $(BUILD)/libnibble.map
	$(Q)$(CC) -shared $(ALL_CFLAGS) $(LDFLAGS) -Wl,-soname,$(SONAME) -Wl,-z,defs \
	    -Wl,--version-script=$(BUILD)/libnibble.map -o $@ $(filter %.o,$^) $(LDLIBS)
$(LIB_SO): $(LIB_SO).$(VERSION)
	$(Q)ln -sf $(<F) $(BUILD)/$(SONAME) && ln -sf $(SONAME) $@

# The runpath leads an installed tool to libnibble_cuda.so; here that lies beside it.
$(BUILD)/nibble: $(call obj,$(NIBBLE_SRC) $(TOOL_SRC)) $(LIB_A)
	$(Q)$(CC) $(ALL_CFLAGS) $(LDFLAGS) $(RUNPATH) -o $@ $^ $(LDLIBS)
$(BUILD)/qbench: $(call obj,$(QBENCH_SRC) $(TOOL_SRC)) $(LIB_A)
	$(Q)$(CC) $(ALL_CFLAGS) $(LDFLAGS) $(RUNPATH) -o $@ $^ $(LDLIBS)
# A demonstration, not installed; alone in wanting OpenBLAS. These flags let loops become vectors
# and change no bit: nothing here reads errno or the exception flags of arithmetic.
$(call obj,$(QAT_SRC)): ALL_CFLAGS += -O3 -fno-trapping-math -fno-math-errno
$(BUILD)/qat_demo: $(call obj,$(QAT_SRC)) $(LIB_A)
	$(Q)$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ -lopenblas $(LDLIBS)
$(TESTS): $(call obj,$(TEST_SRC) tests/shim.cc) $(LIB_A)
	$(Q)$(CXX) $(ALL_CXXFLAGS) $(LDFLAGS) -fopenmp -o $@ $^ -lgtest -lgtest_main -lpthread $(LDLIBS)
$(FUZZERS): $(BUILD)/%: $(BUILD)/tests/fuzz/%.c.o $(LIB_A)
	$(Q)$(CC) $(ALL_CFLAGS) -fsanitize=fuzzer $(LDFLAGS) -o $@ $^ $(LDLIBS)

# The only files that may use AVX instructions; called after a check of the processor.
AVX2     := -mavx2 -mfma -mf16c
AVX512   := $(AVX2) -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni
$(BUILD)/%_avx2.c.o: ALL_CFLAGS += $(if $(filter x86_64,$(PROCESSOR)),$(AVX2))
$(BUILD)/%_avx512.c.o: ALL_CFLAGS += $(if $(filter x86_64,$(PROCESSOR)),$(AVX512))
$(BUILD)/kernels/cpu/%.o: ALL_CFLAGS += $(KERNEL_CFLAGS)
$(BUILD)/host/tools/%.o: CPPFLAGS += -DNIB_COMMIT='"$(COMMIT)"' -DNIB_BUILD_DIR='"$(BUILD)"'
$(BUILD)/tests/%.o: CPPFLAGS += -DNIB_BUILD_DIR='"$(BUILD)"' $(TOOLKIT)
# One test compares the arithmetic with the CUDA toolkit's headers, where they are.
TOOLKIT  := $(addprefix -isystem ,$(wildcard $(CUDA_HOME)/include))
$(call obj,$(NIBBLE_SRC) $(QBENCH_SRC) $(TOOL_SRC)): $(BUILD)/commit

$(NVTX_RECORDER): tests/nvtx_recorder.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CPPFLAGS) $(TOOLKIT) $(ALL_CFLAGS) -shared $(LDFLAGS) -o $@ $<
# NVTX's own functions, compiled into this file, are nobody else's to see.
$(call obj,host/trace.c host/tools/qbench_mark.c): \
    CPPFLAGS += $(if $(NVTX),-isystem $(CUDA_HOME)/include)
$(call obj,host/trace.c): LOCAL := $(if $(NVTX),nvtx* InitializeInjectionNvtx*)
$(call obj,$(LIB_SRC) tests/trace_test.c host/tools/qbench_mark.c): \
    CPPFLAGS += $(if $(NVTX),-DNIB_NVTX)

$(BUILD)/%.c.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) -c $< -o $@
	$(if $(LOCAL),$(Q)$(OBJCOPY) --wildcard $(LOCAL:%=--localize-symbol='%') $@)
$(BUILD)/%.cc.o: %.cc $(BUILD)/flags
	@mkdir -p $(@D)
	$(Q)$(CXX) $(ALL_CPPFLAGS) $(ALL_CXXFLAGS) -c $< -o $@

include tests/emu/emulated.mk

# These change only when their text does: other flags or another commit rebuild what they must.
# What passed -Werror is what WERROR= makes: quickstart after the tests builds nothing again.
.PHONY: FORCE
remember = mkdir -p $(@D); echo '$(1)' | cmp -s - $@ || echo '$(1)' > $@
lenient  = $(filter-out -Werror all-warnings,$(1))
remember_flags = mkdir -p $(@D); for werror in $(or $(WERROR),'' -Werror); do \
    printf '%s\n' '$(call lenient,$(1))' "$$werror" | cmp -s - $@ && exit; done; \
    printf '%s\n' '$(call lenient,$(1))' '$(WERROR)' > $@
FLAGS := $(CC) $(CXX) $(ALL_CFLAGS) $(ALL_CXXFLAGS) $(EMU_CXXFLAGS) $(LDFLAGS) $(NVTX) \
         $(KERNEL_CFLAGS)
$(BUILD)/flags: FORCE
	@$(call remember_flags,$(FLAGS))
$(BUILD)/commit: FORCE
	@$(call remember,$(COMMIT))

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)

# ---- for people ------------------------------------------------------------------------

.PHONY: quickstart demo-qat bench test cuda-test check test-full tests suite emulated sanitize \
        fuzz fuzzers aarch64-test gpu-test gpu-sanitize evidence
## quickstart: installs what is missing, builds, quantizes a real model (MODEL=path: your own)
quickstart:
	@scripts/bootstrap.sh build
	@+$(MAKE) --no-print-directory BUILD=$(BUILD) WERROR= \
	    $(shell nvidia-smi -L >/dev/null 2>&1 || echo CUDA=0) all
	@scripts/quickstart.sh $(BUILD)

## demo-qat: trains a small Llama, quantizes it, trains on with fake-quantize: table and chart
demo-qat:
	@scripts/bootstrap.sh build demo
	@+$(MAKE) --no-print-directory BUILD=$(BUILD) CUDA=0 WERROR= $(BUILD)/qat_demo $(BUILD)/nibble
	@scripts/demo_qat.sh $(BUILD)

## bench: the CPU's figures against this machine's limits (BENCH_ARGS= for qbench)
bench: all
	$(BUILD)/qbench $(or $(BENCH_ARGS),quantize)

## test: what a change must pass; its last line is "N passed, N failed, N skipped"
test:
	@scripts/bootstrap.sh test
	@+scripts/run_tests.sh test

## check: the fast part of it, under a minute
check:
	@scripts/bootstrap.sh test
	@+scripts/run_tests.sh check

## cuda-test: and by nvcc: spills, registers, instructions; the suite on a GPU if there is one
cuda-test:
	@scripts/bootstrap.sh test
	@+scripts/run_tests.sh cuda

## test-full: both, then sanitizers, other compilers and flags, threads, long fuzzing
test-full:
	@scripts/bootstrap.sh test
	@+scripts/run_tests.sh test cuda sanitize full fuzz

tests: suite $(EMULATED) $(EMU_LIBS)

# The C suite and what it runs, without the emulator.
suite: $(TESTS) $(TOOLS) $(NVTX_RECORDER)

## emulated: builds the kernels' tests on the CPU emulator alone
emulated: $(EMULATED) $(EMU_LIBS)

## sanitize: builds the suite with address and undefined-behaviour checks and runs it
sanitize:
	@scripts/bootstrap.sh test
	@+scripts/run_tests.sh sanitize

## fuzz: runs each fuzzer FUZZ_SECONDS (60) under the same checks
fuzz:
	@scripts/bootstrap.sh test
	@+scripts/run_tests.sh fuzz

fuzzers: $(FUZZERS)

## aarch64-test: cross-compiles the arithmetic and its tests, runs them under qemu
aarch64-test:
	@scripts/bootstrap.sh test
	@+scripts/run_tests.sh aarch64

## gpu-test: every test of kernels and the C suite on this machine's GPU
gpu-test:
	@+scripts/gpu_test.sh test || [ $$? = 77 ]

## gpu-sanitize: the same under compute-sanitizer's memcheck, racecheck, initcheck, synccheck
gpu-sanitize:
	@+scripts/gpu_test.sh sanitize || [ $$? = 77 ]

## evidence: tests, rows and sanitizers on this GPU, as one bundle (BACKEND=cpu: without a GPU)
evidence:
	@+scripts/evidence.sh

# ---- installing ------------------------------------------------------------------------

.PHONY: install uninstall abi-update format clean help
D := $(DESTDIR)
OPENMP_LIB = $(if $(findstring clang,$(CC)),-fopenmp,-lgomp)
fill = sed -e 's|@PREFIX@|$(PREFIX)|g' -e 's|@LIBDIR@|$(libdir)|g' -e 's|@VERSION@|$(VERSION)|g' \
           -e 's|@INCLUDEDIR@|$(includedir)|g' -e 's|@OPENMP_LIB@|$(OPENMP_LIB)|g' \
           -e 's|@SONAME@|$(SONAME)|g' -e 's|@CUDA_LIBDIR@|$(CUDA_LIBDIR)|g' \
           -e "s|@INCLUDE_FROM_LIB@|$$(realpath -m --relative-to=$(libdir) $(includedir))|g"
CMAKE_DIR = $(libdir)/cmake/nibble
# Blanks would need quoting here, in pkg-config's file and in CMake's; both need absolute paths.
place_checked = $(foreach v,PREFIX DESTDIR bindir libdir includedir,$(if $(word 2,$($(v))),\
                    $(error $(v)='$($(v))': a path with blanks cannot be installed to)))\
                $(foreach v,PREFIX bindir libdir includedir,$(if $(filter /%,$($(v))),,\
                    $(error $(v)='$($(v))' is not an absolute path)))

## install: library, headers, tools, pkg-config and CMake files (PREFIX= DESTDIR= libdir=)
install: all
	$(place_checked)
	install -d $(D)$(bindir) $(D)$(libdir)/pkgconfig $(D)$(CMAKE_DIR) $(D)$(includedir)/nibble
	install -m 644 $(PUBLIC_H) $(D)$(includedir)/nibble
	install -m 644 $(LIB_A) $(CUDA_A) $(D)$(libdir)
	install -m 755 $(LIB_SO).$(VERSION) $(CUDA_SO) $(D)$(libdir)
	ln -sf libnibble.so.$(VERSION) $(D)$(libdir)/$(SONAME)
	ln -sf $(SONAME) $(D)$(libdir)/libnibble.so
	$(if $(strip $(TOOLS)),install -m 755 $(TOOLS) $(D)$(bindir))
	$(fill) scripts/install/nibble.pc.in > $(D)$(libdir)/pkgconfig/nibble.pc
	$(if $(WITH_CUDA),$(fill) scripts/install/nibble_cuda.pc.in \
	    > $(D)$(libdir)/pkgconfig/nibble_cuda.pc)
	$(fill) scripts/install/nibbleConfig.cmake.in > $(D)$(CMAKE_DIR)/nibbleConfig.cmake
	$(fill) scripts/install/nibbleConfigVersion.cmake.in > $(D)$(CMAKE_DIR)/nibbleConfigVersion.cmake

## uninstall: removes what install put there
uninstall:
	$(place_checked)
	rm -f $(addprefix $(D)$(libdir)/,libnibble.a libnibble.so $(SONAME) libnibble.so.$(VERSION) \
	    libnibble_cuda.a libnibble_cuda.so pkgconfig/nibble.pc pkgconfig/nibble_cuda.pc)
	rm -f $(addprefix $(D)$(bindir)/,nibble qbench)
	rm -rf $(D)$(includedir)/nibble $(D)$(CMAKE_DIR)

## abi-update: records the present ABI, for a change of it that is meant
abi-update: $(LIB_SO)
	scripts/abi/abi.sh update $(LIB_SO)

## format: formats the lines that differ from the last commit
format:
	@scripts/bootstrap.sh format
	git clang-format --extensions c,h,cc,cu,cuh HEAD

## clean: removes the build folder
clean:
	rm -rf $(BUILD)

## help: this list
help:
	@sed -n 's/^## \([^:]*\): /\1\t/p' Makefile scripts/cuda.mk | \
	    awk -F '\t' '{printf "  make %-13s %s\n", $$1, $$2}'
