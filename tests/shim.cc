/* shim.cc: hands the C tests to Google Test. */
#include "shim.h"

#include <gtest/gtest.h>

#include <cstdarg>
#include <cstdio>

namespace {
struct CTest : testing::Test {
    explicit CTest(void (*body)()) : body_(body) {}
    void TestBody() override { body_(); }
    void (*body_)();
};
}  // namespace

void nib_test_register(const char *suite, const char *name, void (*body)(void), const char *file,
                       int line)
{
    testing::RegisterTest(suite, name, nullptr, nullptr, file, line,
                          [body]() -> testing::Test * { return new CTest(body); });
}

void nib_test_expect(int ok, const char *file, int line, const char *condition,
                     const char *format, ...)
{
    if (ok) return;
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    ADD_FAILURE_AT(file, line) << condition << ":" << text;
}

void nib_test_skip(const char *file, int line, const char *reason)
{
    testing::internal::AssertHelper(testing::TestPartResult::kSkip, file, line, reason) =
        testing::Message();
}

int nib_test_failed(void) { return testing::Test::HasFailure(); }
