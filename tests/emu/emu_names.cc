/* emu_names.cc: a kernel's name from its address, by the symbol table of the file it lies in: a
 * launch through a pointer names no kernel, and most kernels are static. */
#include "tests/emu/emu_runtime.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>
#include <link.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

namespace nib_emu {

typedef std::map<uintptr_t, std::string> Symbols; /* by address in the file */

static std::vector<char> read_file(const char *path)
{
    std::vector<char> bytes;
    FILE *f = fopen(path, "rb");
    if (!f) return bytes;
    char buffer[65536];
    for (size_t n; (n = fread(buffer, 1, sizeof buffer, f)) > 0;) {
        bytes.insert(bytes.end(), buffer, buffer + n);
    }
    fclose(f);
    return bytes;
}

static Symbols symbols_of(const std::vector<char> &file, bool *fixed)
{
    Symbols symbols;
    ElfW(Ehdr) header;
    if (file.size() < sizeof header) return symbols;
    memcpy(&header, file.data(), sizeof header);
    *fixed = header.e_type == ET_EXEC;
    const auto *sections = (const ElfW(Shdr) *)(file.data() + header.e_shoff);
    for (int i = 0; i < header.e_shnum; i++) {
        if (sections[i].sh_type != SHT_SYMTAB) continue;
        const auto *table = (const ElfW(Sym) *)(file.data() + sections[i].sh_offset);
        const char *names = file.data() + sections[sections[i].sh_link].sh_offset;
        for (size_t s = 0; s < sections[i].sh_size / sizeof *table; s++) {
            if (ELF64_ST_TYPE(table[s].st_info) == STT_FUNC) {
                symbols[table[s].st_value] = names + table[s].st_name;
            }
        }
    }
    return symbols;
}

/* Without what the declaration says beside the name and its template's arguments. */
static std::string short_name(std::string full)
{
    const std::string unnamed = "(anonymous namespace)::";
    for (size_t at; (at = full.find(unnamed)) != std::string::npos;) full.erase(at, unnamed.size());
    size_t depth = 0;
    for (size_t i = 0; i < full.size(); i++) {
        if (full[i] == '<') depth++;
        if (full[i] == '>') depth--;
        if (full[i] == '(' && depth == 0) {
            full.resize(i);
            break;
        }
    }
    const std::string type = "void "; /* a template's name begins with the result's type */
    return full.compare(0, type.size(), type) ? full : full.substr(type.size());
}

std::string function_name(const void *function, const char *otherwise)
{
    static Symbols symbols;
    static uintptr_t base;
    Unseen unseen;
    Dl_info info;
    if (!dladdr(function, &info)) return otherwise;
    if (symbols.empty()) { /* all kernels lie in one file, the emulator's */
        bool fixed = false;
        char path[4096] = "/proc/self/exe";
        if (strchr(info.dli_fname, '/')) snprintf(path, sizeof path, "%s", info.dli_fname);
        symbols = symbols_of(read_file(path), &fixed);
        base = fixed ? 0 : (uintptr_t)info.dli_fbase;
    }
    const auto at = symbols.find((uintptr_t)function - base);
    if (at == symbols.end()) return otherwise;
    int status = -1;
    char *readable = abi::__cxa_demangle(at->second.c_str(), nullptr, nullptr, &status);
    const std::string name = short_name(readable ? readable : at->second);
    free(readable);
    return name;
}

} // namespace nib_emu
