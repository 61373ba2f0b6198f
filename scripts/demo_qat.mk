# What make demo-qat runs, as one job for each core: every seed's f32 training, and from it the
# same further steps in f32 and with fake-quantize. Included by nothing; scripts/demo_qat.sh calls
# it with TOOL, OUT, TEXT, SEEDS, STEPS, TUNE_STEPS and TUNE_RATE.
RUNS   := none nvfp4 mxfp4 progressive

.PHONY: all
.DELETE_ON_ERROR:
all: $(foreach s,$(SEEDS),$(OUT)/f32-$s.json) \
     $(foreach s,$(SEEDS),$(foreach r,$(RUNS),$(OUT)/$r-$s.json))

define of_seed
$(OUT)/f32-$(1).json: $(TOOL) $(TEXT)
	@$(TOOL) --text $(TEXT) --seed $(1) --steps $(STEPS) --model $(OUT)/model-$(1) --output $$@
endef
define of_run
$(OUT)/$(2)-$(1).json: $(OUT)/f32-$(1).json
	@$(TOOL) --text $(TEXT) --seed $(1) --steps $(TUNE_STEPS) --rate $(TUNE_RATE) --sequences 4 \
	    --run $(2) --from $(OUT)/model-$(1) --output $$@
endef
$(foreach s,$(SEEDS),$(eval $(call of_seed,$s)))
$(foreach s,$(SEEDS),$(foreach r,$(RUNS),$(eval $(call of_run,$s,$r))))
