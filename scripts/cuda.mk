# cuda.mk: the CUDA backend, shared and static, where there is a compiler for it.
#
#   CUDA=auto  builds it if scripts/nvcc.sh finds nvcc 12.8 or later     CUDA=0  without
#   CUDA=1     fails if it cannot                                        NVCC=   CUDA_HOME=
#   CUDA_ARCHS="sm_80 sm_90a compute_90"   sm_: machine code, compute_: PTX for later GPUs
ifeq ($(filter 0 1 auto,$(CUDA)),)
$(error CUDA=$(CUDA): 0, 1 or auto)
endif
CUDA_FOUND := $(if $(filter 0,$(CUDA)),no CUDA=0,$(shell \
                NVCC='$(NVCC)' CUDA_HOME='$(CUDA_HOME)' scripts/nvcc.sh))
WITH_CUDA  := $(filter ok,$(firstword $(CUDA_FOUND)))
ifneq ($(WITH_CUDA),)
CUDA_VERSION := $(word 2,$(CUDA_FOUND))
NVCC         := $(word 3,$(CUDA_FOUND))
CUDA_LIBDIR  := $(word 4,$(CUDA_FOUND))
CUDA_ARCHS   ?= $(wordlist 5,99,$(CUDA_FOUND))
CUDA_SAYS    := libnibble_cuda.so for $(CUDA_ARCHS), by nvcc $(CUDA_VERSION)
CUDA_SO      := $(BUILD)/libnibble_cuda.so
CUDA_A       := $(BUILD)/libnibble_cuda.a
else
CUDA_SAYS    := not built, $(wordlist 2,99,$(CUDA_FOUND))
endif

# X.cu.keep has what scripts/checks/cuda_gates.sh reads: PTX, machine code, registers and spills.
# The same bits as on the CPU: no contraction, not by the host's compiler either. A spill or an
# array in local memory is an error.
# The host's compiler sees device code as well, and warns of pragmas that are not for it.
NVCCFLAGS     ?= -O3
ALL_NVCCFLAGS  = -std=c++17 $(NVCCFLAGS) -fmad=false -I. -Iinclude $(CPPFLAGS) \
                 -DNIB_CUDA_ARCHS='"$(strip $(CUDA_ARCHS))"' $(if $(WERROR),-Werror all-warnings) \
                 -Xptxas -warn-spills,-warn-lmem-usage,-v \
                 -Xcompiler -fPIC,-fvisibility=hidden,-fno-exceptions,-ffp-contract=off \
                 -Xcompiler -Wall,-Wextra,-Wno-unknown-pragmas --threads 2 \
                 $(foreach a,$(CUDA_ARCHS),-gencode arch=$(a:sm_%=compute_%),code=$(a))
CUDA_OBJ      := $(patsubst %,$(BUILD)/cuda/%.o,$(wildcard kernels/cuda/*.cu))
CUDART        := -L$(CUDA_LIBDIR) -lcudart_static -lrt -lpthread -ldl

$(BUILD)/cuda/flags: FORCE
	@$(call remember_flags,$(NVCC) $(subst ',,$(ALL_NVCCFLAGS)))
$(BUILD)/cuda/%.cu.o: %.cu $(BUILD)/cuda/flags
	@rm -rf $(@:.o=.keep) && mkdir -p $(@:.o=.keep)
	$(Q)$(NVCC) $(ALL_NVCCFLAGS) -MMD -MP -MF $(@:.o=.d) --keep --keep-dir $(@:.o=.keep) \
	    -c $< -o $@ >$(@:.o=.keep)/log.txt 2>&1 || status=$$?; \
	grep -vE '^(ptxas info|    [0-9]+ bytes stack frame)' $(@:.o=.keep)/log.txt >&2; \
	find $(@:.o=.keep) -type f ! -name '*.ptx' ! -name '*.cubin' ! -name log.txt -delete; \
	exit $${status:-0}

$(BUILD)/libnibble_cuda.a: $(CUDA_OBJ)
	$(Q)rm -f $@ && ar rcs $@ $^
# One name is seen: the table's. The runtimes of CUDA and C++ in it are nobody else's.
$(BUILD)/libnibble_cuda.so: $(CUDA_OBJ)
	$(Q)$(CXX) -shared $(LDFLAGS) -Wl,-soname,$(@F) -Wl,-z,defs -Wl,--exclude-libs,ALL \
	    -Wl,--as-needed -static-libgcc -static-libstdc++ -o $@ $^ $(CUDART)

.PHONY: cuda
## cuda: the CUDA backend alone (NVCC= CUDA_HOME= CUDA_ARCHS=; make CUDA=0 builds without)
cuda: $(CUDA_SO) $(CUDA_A)
	@echo "CUDA backend: $(CUDA_SAYS)"; $(if $(WITH_CUDA),,exit 1)
