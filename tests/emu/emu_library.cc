/* emu_library.cc: the files of NVIDIA's libraries, each of which a test may take away. */
#include "tests/emu/emu_launch.h"
#include "tests/emu/emu_runtime.h"

#include <cstring>

namespace nib_emu {

static struct Library {
    const char *word, *file;
    void *(*symbol)(const char *name);
    bool is_missing;
} libraries[] = {
    { "no_cublaslt", "libcublasLt.so.13", cublaslt_symbol, false },
    { "no_cusolver", "libcusolver.so.12", cusolver_symbol, false },
};

void restore_libraries()
{
    for (Library &l : libraries) l.is_missing = false;
}

bool take_library(const char *word)
{
    for (Library &l : libraries)
        if (!strcmp(l.word, word)) return l.is_missing = true;
    return false;
}

void *library_open(const char *name)
{
    for (Library &l : libraries)
        if (!l.is_missing && !strcmp(l.file, name)) return &l;
    return nullptr;
}

void *library_find(void *library, const char *symbol)
{
    return ((Library *)library)->symbol(symbol);
}

const char *library_why() { return "no such file"; }

} // namespace nib_emu
