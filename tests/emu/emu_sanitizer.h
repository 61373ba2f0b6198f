/* emu_sanitizer.h: what the address and thread sanitizers must be told about fibers.
 *
 * For the thread sanitizer each CUDA thread is a thread; switching orders nothing, and only
 * barriers and atomics do. Its reports are races that no schedule needs to hit. The emulator's own
 * sources are not instrumented for it (NIB_EMU_TSAN), and Unseen hides their library calls. */
#ifndef NIB_EMU_SANITIZER_H
#define NIB_EMU_SANITIZER_H

#include <stddef.h>

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define NIB_EMU_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if (defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)) && !defined(NIB_EMU_TSAN)
#define NIB_EMU_TSAN 1
#endif

#ifdef NIB_EMU_TSAN
extern "C" {
void *__tsan_create_fiber(unsigned flags);
void  __tsan_destroy_fiber(void *fiber);
void  __tsan_switch_to_fiber(void *fiber, unsigned flags);
void *__tsan_get_current_fiber(void);
void  __tsan_acquire(void *address);
void  __tsan_release(void *address);
void  __tsan_read_range(void *address, unsigned long bytes);
void  __tsan_write_range(void *address, unsigned long bytes);
void  AnnotateIgnoreReadsBegin(const char *file, int line);
void  AnnotateIgnoreReadsEnd(const char *file, int line);
void  AnnotateIgnoreWritesBegin(const char *file, int line);
void  AnnotateIgnoreWritesEnd(const char *file, int line);
}
#endif

namespace nib_emu {

#ifdef NIB_EMU_TSAN
extern int *unseen_depth; /* of the fiber that runs, or of the host */
inline void unseen_begin() { AnnotateIgnoreReadsBegin("", 0), AnnotateIgnoreWritesBegin("", 0); }
inline void unseen_end() { AnnotateIgnoreWritesEnd("", 0), AnnotateIgnoreReadsEnd("", 0); }
struct Unseen {
    Unseen() { unseen_begin(), ++*unseen_depth; }
    ~Unseen() { --*unseen_depth, unseen_end(); }
};
inline void order_acquire(void *p) { __tsan_acquire(p); }
inline void order_release(void *p) { __tsan_release(p); }
inline void saw_read(const void *p, size_t n) { __tsan_read_range(const_cast<void *>(p), n); }
inline void saw_write(void *p, size_t n) { __tsan_write_range(p, n); }
#else
struct Unseen {
    Unseen() {}
    ~Unseen() {}
};
inline void order_acquire(void *) {}
inline void order_release(void *) {}
inline void saw_read(const void *, size_t) {}
inline void saw_write(void *, size_t) {}
#endif

} // namespace nib_emu

#endif
