# emulated.mk: kernel sources as C++ on the emulator, for Makefile to include. For each of two
# targets, one without and one with hardware conversions:
#
#   $(BUILD)/tests/emulated, emulated100                the tests of device code
#   $(BUILD)/tests/emulator                             those of the emulator, with seeded bugs
#   $(BUILD)/emulated, emulated100/libnibble_cuda.so    the CUDA backend, for NIBBLE_CUDA_LIBRARY=
#
# Sources whose code depends on the target, EMU_BY_TARGET, are compiled for each, all others once.
# EMU_SHARE=0 compiles all for each, for scripts/checks/emu_targets.sh to compare.
EMU_SRC   := $(wildcard tests/emu/*.cc)
EMU_CU    := $(wildcard kernels/cuda/*.cu)
EMU_TESTS := $(filter-out %/golden_kernels.cu,$(wildcard tests/emu/*.cu))
EMU_ANY   := $(filter-out %/emu_arch.cc,$(EMU_SRC))

# The emulator's own sources tell the thread sanitizer what CUDA orders, and are not watched by it.
$(call obj,$(EMU_ANY)): override SAN := $(patsubst -fsanitize=thread,-DNIB_EMU_TSAN,$(SAN))
$(call obj,$(EMU_ANY)) $(BUILD)/emulated%: CPPFLAGS += -Itests/emu/include -ffp-contract=off -fPIC

# Most of the time to build all tests goes into these; -O1 takes half of what -O2 does.
EMU_CXXFLAGS ?= $(if $(filter file,$(origin CXXFLAGS)),-O1 -g1)
ALL_EMU_FLAGS = $(ALL_CPPFLAGS) $(ALL_CXXFLAGS) $(EMU_CXXFLAGS)
EMU_SHARE ?= 1
EMU_BY_TARGET := $(patsubst %,kernels/cuda/%_cuda.cu,fakequant gemm_exact gemm_small gemm_tile \
                     gemm_wgmma grouped quantize quantize_both quantize_kinds transform) \
                 $(patsubst %,tests/emu/%_emu_test.cu,backend capture device gemm_exact \
                     gemm_wgmma quantize_estimate stream transform wgmma)
emu_once  := $(if $(filter 0,$(EMU_SHARE)),,$(filter-out $(EMU_BY_TARGET),$(EMU_CU) $(EMU_TESTS)))
emu_obj    = $(patsubst %,$(BUILD)/emulated/%.o,$(filter $(emu_once),$(2))) \
             $(patsubst %,$(BUILD)/emulated$(1)/%.o,$(filter-out $(emu_once),$(2)))

.PHONY: emu-by-target
emu-by-target:
	@printf '%s\n' $(EMU_BY_TARGET)

# $(1): "" or 100, the names' ending; $(2): the target.
define emulated_target
$$(BUILD)/emulated$(1)/%.cu.o: %.cu $$(BUILD)/flags
	@mkdir -p $$(@D)
	$$(Q)$$(CXX) $$(ALL_EMU_FLAGS) -DNIB_EMU_ARCH=$(2) -x c++ -c $$< -o $$@
$$(BUILD)/emulated$(1)/%.cc.o: %.cc $$(BUILD)/flags
	@mkdir -p $$(@D)
	$$(Q)$$(CXX) $$(ALL_EMU_FLAGS) -DNIB_EMU_ARCH=$(2) -c $$< -o $$@
KERNELS$(1) := $$(call emu_obj,$(1),$$(EMU_CU) tests/emu/emu_arch.cc) $$(call obj,$$(EMU_ANY))
$$(BUILD)/tests/emulated$(1): $$(KERNELS$(1)) $$(call emu_obj,$(1),$$(EMU_TESTS)) \
                              $$(call obj,tests/shim.cc) $$(LIB_A)
	$$(Q)$$(CXX) $$(ALL_CXXFLAGS) $$(LDFLAGS) -fopenmp -o $$@ $$^ -lgtest -lgtest_main -lpthread \
	    $$(LDLIBS)
$$(BUILD)/emulated$(1)/libnibble_cuda.so: $$(KERNELS$(1)) tests/emu/exports.map
	$$(Q)$$(CXX) -shared $$(ALL_CXXFLAGS) $$(LDFLAGS) $$(if $$(SAN),,-Wl,-z,defs) \
	    -Wl,--version-script=tests/emu/exports.map -o $$@ $$(filter %.o,$$^) -lpthread
endef
$(eval $(call emulated_target,,80))
$(eval $(call emulated_target,100,100))

# Without the library's kernels: emu_bugs_test.sh builds it again for each sanitizer.
EMU_OWN   := $(patsubst %,tests/emu/%_emu_test.cu,async atomic capture convert device fault matrix \
               stream warp wgmma) tests/emu/seeded_kernels.cu
$(BUILD)/tests/emulator: $(patsubst %,$(BUILD)/emulated/%.o,$(EMU_OWN) tests/emu/emu_arch.cc) \
                         $(call obj,$(EMU_ANY) tests/shim.cc)
	$(Q)$(CXX) $(ALL_CXXFLAGS) $(LDFLAGS) -fopenmp -o $@ $^ -lgtest -lgtest_main -lpthread

EMULATED  := $(BUILD)/tests/emulated $(BUILD)/tests/emulated100
EMU_LIBS  := $(if $(EMU_CU),$(BUILD)/emulated/libnibble_cuda.so \
                            $(BUILD)/emulated100/libnibble_cuda.so)

# A copy of kernels/cuda with a bug lies in $(SEED); of its sources SEED_CU is compiled.
ifdef SEED
$(SEED)/bug.o: $(SEED)/kernels/cuda/$(SEED_CU)
	$(Q)$(CXX) -I$(SEED) $(ALL_CPPFLAGS) -Itests/emu/include $(ALL_CXXFLAGS) -O1 -Wno-unused \
	    -ffp-contract=off -fPIC -DNIB_EMU_ARCH=80 -x c++ -c $< -o $@
$(SEED)/libnibble_cuda.so: $(filter-out %/$(SEED_CU).o,$(KERNELS)) $(SEED)/bug.o
	$(Q)$(CXX) -shared $(ALL_CXXFLAGS) $(LDFLAGS) -Wl,--version-script=tests/emu/exports.map \
	    -o $@ $^ -lpthread
endif
