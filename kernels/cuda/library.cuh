/* library.cuh: NVIDIA's libraries, opened at run time and never linked: their functions by name
 * into a struct of pointers, what they say of a failure in words, and handles by device. */
#ifndef NIB_LIBRARY_CUH
#define NIB_LIBRARY_CUH

#include "ops_cuda.cuh"

#include <atomic>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum { LIBRARY_DEVICES = 64 };

/* The state of a device's handle. Refused is not for good: the next call that needs it asks again,
 * and so does nib_prepare. */
enum { HANDLE_NONE, HANDLE_MADE, HANDLE_REFUSED };

struct LibraryHandle {
    std::atomic<int> state;
    std::atomic<int> refusal; /* the library's status */
};

struct LibraryFunction {
    const char *name;
    size_t      at; /* offset of its pointer */
};

struct LibraryStatus {
    int         status;
    const char *words;
};

/* Those that cuBLAS and cuSOLVER both have, each by numbers of its own. */
#define LIBRARY_STATUSES(PREFIX)                                                \
    { PREFIX##_STATUS_NOT_INITIALIZED, "it could not start on the device" },    \
    { PREFIX##_STATUS_ALLOC_FAILED, "no memory" },                              \
    { PREFIX##_STATUS_INVALID_VALUE, "an argument it does not take" },          \
    { PREFIX##_STATUS_ARCH_MISMATCH, "not for this GPU" },                      \
    { PREFIX##_STATUS_EXECUTION_FAILED, "its kernel failed to launch" },        \
    { PREFIX##_STATUS_INTERNAL_ERROR, "an internal error" },                    \
    { PREFIX##_STATUS_NOT_SUPPORTED, "not supported" }

template <size_t n> const char *library_words(const LibraryStatus (&list)[n], int status)
{
    for (const LibraryStatus &s : list)
        if (s.status == status) return s.words;
    return "for a reason of its own";
}

/* Finds the functions; why (NIB_WHY_BYTES) stays as it is, or says what is missing. */
template <size_t n>
void library_open(const char *name, const LibraryFunction (&functions)[n], void *to, char *why)
{
    void *const library = NIB_LIBRARY_OPEN(name);
    if (!library) {
        snprintf(why, NIB_WHY_BYTES, "%s cannot be opened: %s", name, NIB_LIBRARY_WHY());
        return;
    }
    for (const LibraryFunction &f : functions) {
        void *const found = (void *)NIB_LIBRARY_FIND(library, f.name);
        static_assert(sizeof found == sizeof(void (*)()), "POSIX");
        memcpy((char *)to + f.at, &found, sizeof found);
        if (!found) snprintf(why, NIB_WHY_BYTES, "%s lacks %s", name, f.name);
    }
}

template <class Handle> bool library_is_refused(const Handle *handles, int32_t ordinal)
{
    return ordinal >= 0 && ordinal < LIBRARY_DEVICES
        && handles[ordinal].state.load(std::memory_order_acquire) == HANDLE_REFUSED;
}

/* NULL, or why there is no handle for this device: a text of this thread's until it asks again.
 * why: of the library as a whole. */
template <class Handle>
const char *library_why_not(const char *name, const char *why, const Handle *handles,
                            int32_t ordinal, const char *(*words)(int))
{
    static thread_local char text[192];
    if (why[0]) return why;
    if (ordinal < 0 || ordinal >= LIBRARY_DEVICES) return "there are at most 64 devices";
    if (!library_is_refused(handles, ordinal)) return nullptr;
    const int status = handles[ordinal].refusal.load(std::memory_order_relaxed);
    snprintf(text, sizeof text, "%s: no handle for CUDA device %d: status %d, %s", name, ordinal,
             status, words(status));
    return text;
}

/* The current device's number, if it has no handle; else -1. */
template <class Handle> int library_wants_handle(const Handle *handles)
{
    int ordinal = 0;
    if (cudaGetDevice(&ordinal) != cudaSuccess) return (void)cudaGetLastError(), -1;
    if (ordinal < 0 || ordinal >= LIBRARY_DEVICES) return -1;
    return handles[ordinal].state.load(std::memory_order_relaxed) != HANDLE_MADE ? ordinal : -1;
}

/* What became of it. */
inline void library_handle_made(LibraryHandle *h, int status)
{
    h->refusal.store(status, std::memory_order_relaxed);
    h->state.store(status == 0 ? HANDLE_MADE : HANDLE_REFUSED, std::memory_order_release);
}

#endif
