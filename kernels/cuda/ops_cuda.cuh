/* ops_cuda.cuh: what the parts of this backend give each other. */
#ifndef NIB_OPS_CUDA_CUH
#define NIB_OPS_CUDA_CUH

#include "kernels/backend.h"
#include "runtime.cuh"

/* Every entry of the table is made of these three steps:
 *
 *     NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_PREPARE_QUANTIZE));  device current, earlier faults
 *     ... checks of pointers in debug mode, NIB_LAUNCH ...
 *     return nib_cuda_end(launch, "quantize");                     launch errors, debug wait
 */

/* Makes launch's device current, and refuses: an error that an earlier kernel of the caller left
 * (NIB_ERR_DEVICE), a stream of another device (NIB_ERR_ARGUMENT), a stream under capture before
 * nib_prepare (NIB_ERR_NOT_PREPARED). group: NIB_PREPARE_*. */
nib_status nib_cuda_begin(const nib_launch *launch, uint32_t group);

/* UNSUPPORTED, with words, where a call that must wait for the stream cannot; and nib_cuda_begin of
 * such a call. */
nib_status nib_cuda_not_captured(const nib_launch *launch);
nib_status nib_cuda_begin_waiting(const nib_launch *launch, uint32_t group);

/* What the launches since nib_cuda_begin came to; in debug mode waits for them. */
nib_status nib_cuda_end(const nib_launch *launch, const char *what);

/* Debug mode: refuses bytes at p that the device cannot read or write, naming what. */
nib_status nib_cuda_pointer(const nib_launch *launch, const char *what, const void *p,
                            int64_t bytes);

/* Words for an error, and whether the context is still usable, into why. */
nib_status nib_cuda_failed(char *why, const char *what, cudaError_t error);

/* The device that is current now is so again at the end of the scope. The table's entries and the
 * runtime's have one; what they call may leave another device current, and so do the benchmark's,
 * which only tools call. */
class nib_cuda_current {
public:
    nib_cuda_current();
    ~nib_cuda_current();
    nib_cuda_current(const nib_cuda_current &) = delete;
    nib_cuda_current &operator=(const nib_cuda_current &) = delete;

private:
    int         before_ = 0;
    cudaError_t error_;
};

/* For the scope, what the thread allocates, frees or loads neither breaks another thread's capture
 * nor is forbidden by one of its own. */
class nib_cuda_relaxed {
public:
    nib_cuda_relaxed() : error_(cudaThreadExchangeStreamCaptureMode(&mode_)) {}
    ~nib_cuda_relaxed()
    {
        if (error_ == cudaSuccess) (void)cudaThreadExchangeStreamCaptureMode(&mode_);
    }
    nib_cuda_relaxed(const nib_cuda_relaxed &) = delete;
    nib_cuda_relaxed &operator=(const nib_cuda_relaxed &) = delete;
    cudaError_t error() const { return error_; }

private:
    cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
    cudaError_t           error_;
};

/* Makes ordinal the current device. */
nib_status nib_cuda_use(int32_t ordinal, char *why);

/* Groups of kernels: NIB_PREPARE_* and the benchmark's, which only tools ask for. */
enum { NIB_CUDA_PREPARE_BENCH = 1 << 30 };
bool       nib_cuda_is_prepared(int32_t ordinal, uint32_t group);
nib_status nib_cuda_prepare(int32_t ordinal, uint32_t group, char *why);

/* load() on the current device, launch's, as nib_cuda_prepare would call it; nothing where launch's
 * stream is being captured. */
void nib_cuda_load_again(const nib_launch *launch, void (*load)());

nib_status nib_cuda_probe(int32_t ordinal, nib_device_info *info, char *why);
/* Whether code for archs, such as "sm_80 sm_90a sm_100f compute_90", runs on this capability. */
bool nib_cuda_compiled_for(const char *archs, int32_t capability);
bool nib_cuda_has_arch(const char *archs, const char *arch); /* one of the words */

#define NIB_CUDA_TRY(call) \
    do { const nib_status nib_try_ = (call); if (nib_try_ != NIB_OK) return nib_try_; } while (0)

/* Entries; batch is never NULL here, count >= 1, rows and cols >= 1 but where noted. */
nib_status nib_cuda_quantize(const nib_launch *launch, const nib_batch *batch,
                             const nib_matrix *src, const nib_quantize_request *request,
                             const nib_packed *dst); /* rows or cols may be 0: tensor scale only */
nib_status nib_cuda_quantize_both(const nib_launch *launch, const nib_matrix *src,
                                  const nib_quantize_request *request, const nib_packed *rowwise,
                                  const nib_packed *columnwise); /* rowwise NULL: see backend.h */
nib_status nib_cuda_dequantize(const nib_launch *launch, const nib_batch *batch,
                               const nib_packed *src, const nib_matrix *dst);
nib_status nib_cuda_amax(const nib_launch *launch, const nib_batch *batch, const nib_matrix *src,
                         float *amax, uint64_t *nonfinite); /* rows or cols may be 0 */
nib_status nib_cuda_amax_rows(const nib_launch *launch, const nib_matrix *src, float *amax);
nib_status nib_cuda_relayout_scales(const nib_launch *launch, int64_t rows, int64_t scale_cols,
                                    nib_scale_layout from, const uint8_t *src,
                                    nib_scale_layout to, uint8_t *dst);
nib_status nib_cuda_fake_quantize(const nib_launch *launch, const nib_matrix *src,
                                  const nib_fake_request *request, const nib_matrix *dst);
nib_status nib_cuda_fake_backward(const nib_launch *launch, const nib_matrix *grad_out,
                                  const nib_matrix *src, const nib_fake_request *request,
                                  const nib_matrix *grad_in); /* src NULL: see backend.h */
nib_status nib_cuda_observe_range(const nib_launch *launch, const nib_matrix *src, float *range);
nib_status nib_cuda_observe_range_rows(const nib_launch *launch, const nib_matrix *src,
                                       float *range);
nib_status nib_cuda_observe_ema(const nib_launch *launch, int64_t n, const float *now, float keep,
                                float *average);
nib_status nib_cuda_observe_histogram(const nib_launch *launch, const nib_matrix *src,
                                      const float *top, int32_t bins, uint64_t *counts);
nib_status nib_cuda_observe_stats(const nib_launch *launch, const nib_matrix *src,
                                  const nib_matrix *quantized, const uint8_t *mask,
                                  int64_t ld_mask_bytes, nib_tensor_stats *stats);

/* cublasLt, to be held against: as nib_bench_cuda_ops says. */
nib_status nib_cuda_square_plan(const nib_launch *launch, nib_dtype dtype, nib_real real,
                                nib_hessian_precision precision, int64_t rows, int64_t k,
                                const void *x, void *h, void **plan);
nib_status nib_cuda_gemm_plan(const nib_launch *launch, nib_dtype dtype, int64_t m, int64_t n,
                              int64_t k, const void *a, const void *w, void *d, void **plan);
nib_status nib_cuda_gemm(const nib_launch *launch, void *plan, const void *a, const void *w,
                         void *d);
void       nib_cuda_gemm_release(void *plan);
nib_status nib_cuda_fake_steps(const nib_launch *launch, const nib_matrix *src,
                               const nib_step_request *request, const nib_matrix *dst);
nib_status nib_cuda_fake_steps_backward(const nib_launch *launch, const nib_matrix *grad_out,
                                        const nib_matrix *src, const nib_step_request *request,
                                        const nib_matrix *grad_in);
nib_status nib_cuda_transform_apply(const nib_launch *launch, const nib_transform *transform,
                                    const nib_matrix *src, const nib_matrix *dst);
nib_status nib_cuda_quantize_transformed(const nib_launch *launch, const nib_transform *transform,
                                         const nib_matrix *src,
                                         const nib_quantize_request *request,
                                         const nib_packed *dst); /* rows or cols may be 0 */
nib_status nib_cuda_quantize_grouped(const nib_launch *launch, const nib_groups *groups,
                                     const nib_matrix *src, const nib_quantize_request *request,
                                     const nib_packed *dst); /* rows or cols may be 0 */
nib_status nib_cuda_amax_grouped(const nib_launch *launch, const nib_groups *groups,
                                 const nib_matrix *src, float *amax); /* rows or cols may be 0 */

/* gemm.h: as nib_backend says; gemm_job.cuh has what its files give each other. */
int32_t nib_cuda_gemm_tactics(const nib_gemm_options *options, const nib_device_info *info,
                              nib_gemm_tactic *tactics, char *why);
int32_t nib_cuda_gemm_plan(const nib_gemm_options *options, const nib_device_info *info,
                           nib_gemm_tactic *tactics, char *why);
size_t  nib_cuda_gemm_need(const nib_gemm_options *options, const nib_device_info *info,
                           const nib_gemm_tactic *tactic, int64_t m, int32_t *splits);
size_t  nib_cuda_gemm_backward_need(const nib_gemm_options *options, const nib_device_info *info,
                                    int64_t m);
nib_status nib_cuda_gemm_pack(const nib_launch *launch, const nib_packed *src,
                              const nib_gemm_weights *w);
nib_status nib_cuda_gemm_unpack(const nib_launch *launch, const nib_gemm_weights *w,
                                const nib_matrix *dst);
nib_status nib_cuda_gemm_run(const nib_launch *launch, const nib_gemm_request *request);
nib_status nib_cuda_gemm_backward(const nib_launch *launch, const nib_gemm_request *request);

nib_status nib_cuda_quantize_steps(const nib_launch *launch, const nib_matrix *src,
                                   const nib_step_request *request, const nib_packed_steps *dst);
nib_status nib_cuda_dequantize_steps(const nib_launch *launch, const nib_packed_steps *src,
                                     const nib_step_request *request, const nib_matrix *dst);

/* hessian.h and gptq.h: as nib_backend says; gptq_job.cuh has what their files give each other. */
size_t     nib_cuda_hessian_add_need(const nib_hessian *hessian, int64_t rows);
nib_status nib_cuda_hessian_clear(const nib_launch *launch, const nib_hessian *hessian);
nib_status nib_cuda_hessian_add(const nib_launch *launch, const nib_matrix *x,
                                nib_hessian_precision precision, const nib_hessian *hessian);
nib_status nib_cuda_hessian_add_grouped(const nib_launch *launch, const nib_groups *groups,
                                        const nib_matrix *x, nib_hessian_precision precision,
                                        const nib_hessian *hessians);
nib_status nib_cuda_hessian_merge(const nib_launch *launch, const nib_hessian *from,
                                  const nib_hessian *to);
nib_status nib_cuda_hessian_rotate(const nib_launch *launch, const nib_hessian *hessian,
                                   int32_t block);
nib_status nib_cuda_hessian_info(const nib_launch *launch, const nib_hessian *hessian,
                                 int32_t whole, nib_hessian_info *info);
nib_status nib_cuda_find_nonfinite(const nib_launch *launch, const nib_matrix *matrix,
                                   int64_t at[2]);
nib_status nib_cuda_gptq_order(const nib_launch *launch, const nib_hessian *hessian,
                               nib_gptq_order order, int32_t block,
                               const nib_gptq_factor *factor);
nib_status nib_cuda_gptq_factor(const nib_launch *launch, const nib_hessian *hessian, double added,
                                const nib_gptq_factor *factor, int64_t *minor);
nib_status nib_cuda_hessian_inverse(const nib_launch *launch, const nib_hessian *hessian,
                                    double added, void *u, int64_t ld_elems, int64_t *minor);
size_t     nib_cuda_gptq_need(nib_real real, int64_t rows, int64_t k, int64_t group,
                              int32_t threads);
nib_status nib_cuda_gptq_measure(const nib_launch *launch, const nib_gptq_request *request,
                                 nib_gptq_sums *sums);
nib_status nib_cuda_gptq_sweep(const nib_launch *launch, const nib_gptq_request *request,
                               nib_gptq_sums *sums);

/* Each file that has kernels loads them onto the current device, and sets their attributes. */
cudaError_t nib_cuda_load_quantize();
cudaError_t nib_cuda_load_both();
cudaError_t nib_cuda_load_dequantize();
cudaError_t nib_cuda_load_amax();
cudaError_t nib_cuda_load_relayout();
cudaError_t nib_cuda_load_fakequant();
cudaError_t nib_cuda_load_observe();
cudaError_t nib_cuda_load_tensor_stats();
cudaError_t nib_cuda_load_steps();
cudaError_t nib_cuda_load_step_codes();
cudaError_t nib_cuda_load_transform();
cudaError_t nib_cuda_load_grouped(); /* and that of amax_cuda.cu: */
cudaError_t nib_cuda_load_amax_grouped();
cudaError_t nib_cuda_load_gemm();
cudaError_t nib_cuda_load_gemm_pack();
cudaError_t nib_cuda_load_gemm_small();
cudaError_t nib_cuda_load_gemm_tile();
cudaError_t nib_cuda_load_gemm_wgmma();
cudaError_t nib_cuda_load_gemm_exact(); /* and cublasLt, if it is there */
cudaError_t nib_cuda_load_hessian(); /* and cublasLt, if it is there */
cudaError_t nib_cuda_load_gptq_factor(); /* and cuSOLVER, if it is there */
cudaError_t nib_cuda_load_gptq();
cudaError_t nib_cuda_load_bench();

extern const nib_runtime_ops    nib_runtime_cuda;
extern const nib_bench_cuda_ops nib_bench_cuda;

#endif
