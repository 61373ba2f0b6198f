/* cublaslt_known.cuh: the algorithms that heuristics chose, by all that they were told, so that a
 * product of a known kind asks for none: a query takes longer than many a product's launch. Any
 * thread, any time. */
#ifndef NIB_CUBLASLT_KNOWN_CUH
#define NIB_CUBLASLT_KNOWN_CUH

#include "cublaslt.cuh"

#include <cublasLt.h>
#include <pthread.h>
#include <string.h>

/* Of w, a and d, in bytes. */
struct LtAlignments {
    uint32_t of[3];
};

/* What a choice hangs on. No padding: compared as bytes. */
struct LtKey {
    int64_t  m, n, k, a_ld, w_ld, d_ld;
    uint64_t workspace;
    uint32_t on[3]; /* never 0 */
    int32_t  ordinal, a_dtype, d_dtype, sums, flags;
};
static_assert(sizeof(LtKey) == 7 * 8 + 8 * 4, "no padding");

inline LtKey lt_key_of(int32_t ordinal, const LtProduct &p, const LtAlignments &on,
                       size_t workspace_bytes)
{
    const int flags = p.transposed | p.a_transposed << 1 | p.adds << 2 | p.strict << 3
                    | (p.factor_at != nullptr) << 4;
    return { p.m, p.n, p.k, p.a_ld, p.w_ld, p.d_ld, workspace_bytes,
             { on.of[0], on.of[1], on.of[2] }, ordinal, (int32_t)p.a_dtype, (int32_t)p.d_dtype,
             (int32_t)p.sums, flags };
}

/* So many at most: a set's oldest makes room. */
class LtKnown {
public:
    bool find(const LtKey &key, cublasLtMatmulAlgo_t *algorithm)
    {
        const Turn turn(&turn_);
        for (const Entry &e : set_of(key)->entry) {
            if (memcmp(&e.key, &key, sizeof key)) continue;
            *algorithm = e.algorithm;
            return true;
        }
        return false;
    }

    /* Two threads may have found the same; once is enough, twice does no harm. */
    void add(const LtKey &key, const cublasLtMatmulAlgo_t &algorithm)
    {
        const Turn turn(&turn_);
        Set *const s = set_of(key);
        s->entry[s->oldest] = { key, algorithm };
        s->oldest = (s->oldest + 1) % WAYS;
    }

private:
    enum { SETS = 64, WAYS = 8 };
    struct Entry { /* zeros: none yet */
        LtKey                key;
        cublasLtMatmulAlgo_t algorithm;
    };
    struct Set {
        Entry entry[WAYS];
        int   oldest;
    };
    class Turn {
    public:
        explicit Turn(pthread_mutex_t *m) : m_(m) { pthread_mutex_lock(m_); }
        ~Turn() { pthread_mutex_unlock(m_); }
        Turn(const Turn &) = delete;
        Turn &operator=(const Turn &) = delete;

    private:
        pthread_mutex_t *m_;
    };

    Set *set_of(const LtKey &key)
    {
        uint64_t words[sizeof key / 8], hash = 0;
        memcpy(words, &key, sizeof key);
        for (const uint64_t word : words) hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
        return &set_[hash >> 58];
    }

    pthread_mutex_t turn_ = PTHREAD_MUTEX_INITIALIZER;
    Set             set_[SETS] = {};
};

#endif
