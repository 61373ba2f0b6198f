/* shim.h: write tests in C11, run them under Google Test. shim.cc is the only C++. */
#ifndef NIB_TEST_SHIM_H
#define NIB_TEST_SHIM_H
#ifdef __cplusplus
extern "C" {
#endif

void nib_test_register(const char *suite, const char *name, void (*body)(void),
                       const char *file, int line);
void nib_test_expect(int ok, const char *file, int line, const char *condition,
                     const char *format, ...) __attribute__((format(printf, 5, 6)));
/* Marks the running test as skipped, with its reason; the test should return then. */
void nib_test_skip(const char *file, int line, const char *reason);
/* 1 once the running test has failed: lets a loop over millions of cases stop. */
int nib_test_failed(void);

#define NIB_TEST(suite, name)                                                       \
    static void suite##_##name(void);                                               \
    __attribute__((constructor)) static void suite##_##name##_register(void)        \
    { nib_test_register(#suite, #name, suite##_##name, __FILE__, __LINE__); }       \
    static void suite##_##name(void)

/* EXPECT(cond, "format", ...): goes on after a failure. REQUIRE: leaves the test. */
#define EXPECT(cond, ...) nib_test_expect(!!(cond), __FILE__, __LINE__, #cond, " " __VA_ARGS__)
#define REQUIRE(cond, ...) \
    do { if (!(cond)) { EXPECT(0 && #cond, __VA_ARGS__); return; } } while (0)
#define SKIP(reason) do { nib_test_skip(__FILE__, __LINE__, reason); return; } while (0)

#ifdef __cplusplus
}
#endif
#endif
