/* policy.c: policies of policy.h. A file is read whole, then line by line; what a hostile one can
 * cost is bounded by the limits there. */
#include "nibble/policy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dispatch.h"
#include "trace.h"

enum { LINE_V1 = offsetof(nib_policy_line, has_rules), WORDS = 4, SHOWN = 64 };

struct nib_policy {
    char            *name;  /* what errors call it */
    char            *text;  /* patterns lie in it */
    int32_t          count, is_export; /* 1: nib_policy_export_text's own */
    nib_policy_line *lines;
};

static const char default_text[] =
    "# PATTERN                      FORMAT         SCALE-CHOICE  RULES\n"
    "*norm.weight                   keep\n"
    "*.bias                         keep\n"
    "*.mlp.gate.weight              keep           # a router of experts\n"
    "*.self_attn.?_cache            fp8-e4m3-b16   # or nvfp4\n"
    "*.self_attn.*_proj.weight      fp6-e2m3-b16\n"
    "*.mlp.*_proj.weight            nvfp4-b32      mse\n"
    "*embed_tokens.weight           fp8-e4m3-b8\n"
    "lm_head.weight                 fp8-e4m3-b8\n";

static const char export_text[] =
    "# PATTERN                      FORMAT         SCALE-CHOICE  RULES\n"
    "*norm.weight                   keep\n"
    "*.bias                         keep\n"
    "*embed*                        keep\n"
    "*.wte.weight                   keep           # GPT-2's names of them\n"
    "*.wpe.weight                   keep\n"
    "*lm_head*                      keep\n"
    "*.gate.weight                  keep           # routers of experts\n"
    "*_gate.weight                  keep\n"
    "*router*                       keep\n"
    "*conv.weight                   keep           # convolutions, which are no matrices\n"
    "*conv?.weight                  keep\n"
    "*conv?d.weight                 keep\n"
    "*visual.*                      keep\n"
    "*vision*                       keep\n"
    "*multi_modal*                  keep\n"
    "*.mlp.*.weight                 nvfp4          mse\n"
    "*experts.*.weight              nvfp4          mse\n"
    "*.feed_forward.*.weight        nvfp4          mse\n"
    "*.ffn.*.weight                 nvfp4          mse\n"
    "*.fc?.weight                   nvfp4          mse\n"
    "*.weight                       nvfp4          # attention and the rest, amax\n";

static const char *const choice_names[] = { "amax", "mse", "mse-full", "four-over-six-mse",
                                            "four-over-six-mae" };
enum { CHOICES = sizeof choice_names / sizeof *choice_names };

const char *nib_scale_choice_name(nib_scale_choice scale_choice)
{
    return (unsigned)scale_choice < CHOICES ? choice_names[scale_choice] : "?";
}

nib_status nib_scale_choice_from_name(const char *name, nib_scale_choice *scale_choice)
{
    NIB_REQUIRE(name && scale_choice, NIB_ERR_ARGUMENT, "scale_choice_from_name: NULL argument");
    for (int i = 0; i < CHOICES; i++)
        if (!strcmp(choice_names[i], name)) return *scale_choice = (nib_scale_choice)i, NIB_OK;
    return nib_fail(NIB_ERR_ARGUMENT, "unknown scale choice '%s'; the choices are amax, mse, "
                    "mse-full, four-over-six-mse, four-over-six-mae", name);
}

const char *nib_policy_default_text(void) { return default_text; }
const char *nib_policy_export_text(void) { return export_text; }

/* Where one line stands. */
typedef struct place {
    const char *file;
    int32_t     line;
} place;

static nib_status format_read(place at, const char *word, nib_policy_line *line)
{
    const nib_format integers = nib_int_format_named(word);
    line->format = nib_int_format_is_valid(integers) ? integers : NIB_FORMAT_NONE;
    if (!strcmp(word, "keep") || line->format == integers
        || nib_format_from_name(word, &line->format) == NIB_OK)
        return NIB_OK;
    char why[512];
    snprintf(why, sizeof why, "%s", nib_last_error());
    return nib_fail(NIB_ERR_FORMAT, "%s:%d: %s, and keep; of integers int4 and int8, then if "
                    "wanted -bN or -channel, and -asym", at.file, (int)at.line, why);
}

/* Word i of n, behind the format: the scale choice, or, as the last one, the rules. */
static nib_status detail_read(place at, const char *word, int i, int n, nib_policy_line *line)
{
    for (int c = NIB_SCALE_AMAX; i == 2 && c <= NIB_SCALE_FOUR_OVER_SIX_MAE; c++)
        if (!strcmp(nib_scale_choice_name((nib_scale_choice)c), word))
            return line->scale_choice = (nib_scale_choice)c, NIB_OK;
    for (int p = NIB_RULES_TE; i == n - 1 && p <= NIB_RULES_GGUF; p++)
        if (!strcmp(nib_rules_preset_name((nib_rules_preset)p), word)) {
            line->has_rules = 1;
            return nib_rules_fill((nib_rules_preset)p, line->format, &line->rules);
        }
    return nib_fail(NIB_ERR_FORMAT, "%s:%d: '%.*s' is no%s%s; scale choices are amax, mse, "
                    "mse-full, four-over-six-mse, four-over-six-mae, and rules te, modelopt, "
                    "compressed-tensors, ocp, gguf", at.file, (int)at.line, SHOWN, word,
                    i == 2 ? " scale choice" : " rules", i == 2 && n == 3 ? " and no rules" : "");
}

/* Fills in what the words of one line say. */
static nib_status words_read(place at, char *const *words, int n, nib_policy_line *line)
{
    *line = (nib_policy_line){ .size = sizeof *line, .line = at.line, .pattern = words[0] };
    NIB_REQUIRE(n >= 2, NIB_ERR_FORMAT, "%s:%d: '%.*s' has no format behind it", at.file,
                (int)at.line, SHOWN, words[0]);
    NIB_TRY(format_read(at, words[1], line));
    const int integers = nib_int_format_is_valid(line->format);
    const int bare = integers || line->format == NIB_FORMAT_NONE;
    NIB_REQUIRE(n <= (bare ? 2 : WORDS), NIB_ERR_FORMAT, "%s:%d: '%.*s' is a word too many%s",
                at.file, (int)at.line, SHOWN, words[bare ? 2 : WORDS],
                integers ? "; integers have neither scale choice nor rules" : "");
    if (bare) return NIB_OK;
    NIB_TRY(nib_rules_fill(NIB_RULES_TE, line->format, &line->rules));
    for (int i = 2; i < n; i++) NIB_TRY(detail_read(at, words[i], i, n, line));
    const nib_quantize_options how = { .size = sizeof how, .scale_choice = line->scale_choice };
    nib_quantize_request request;
    const nib_status status = nib_request_make(words[0], &how, line->format, &request);
    NIB_REQUIRE(status == NIB_OK, NIB_ERR_FORMAT, "%s:%d: %s is not for %s, which is E2M1 with "
                "E4M3 scales alone", at.file, (int)at.line, words[2], words[1]);
    return NIB_OK;
}

/* Cuts a line into words in place; one more than a line may have stands for all others. */
static int words_cut(char *text, char *words[WORDS + 1])
{
    int n = 0;
    for (char *save = NULL, *word = strtok_r(text, " \t", &save); word && n <= WORDS;
         word = strtok_r(NULL, " \t", &save))
        words[n++] = word;
    return n;
}

/* text: one line without its end, NUL-terminated, bytes long. */
static nib_status line_read(nib_policy *p, place at, char *text, size_t bytes)
{
    NIB_REQUIRE(bytes <= NIB_POLICY_LINE_BYTES, NIB_ERR_FORMAT,
                "%s:%d: the line has %zu bytes, at most %d are allowed", at.file, (int)at.line,
                bytes, (int)NIB_POLICY_LINE_BYTES);
    for (size_t i = 0; i < bytes; i++) {
        const unsigned char c = (unsigned char)text[i];
        NIB_REQUIRE((c >= ' ' && c != 0x7f) || c == '\t', NIB_ERR_FORMAT,
                    "%s:%d: byte %zu is the control character %#x", at.file, (int)at.line, i + 1,
                    c);
    }
    text[strcspn(text, "#")] = '\0';
    char *words[WORDS + 1];
    const int n = words_cut(text, words);
    if (n == 0) return NIB_OK;
    NIB_REQUIRE(p->count < NIB_POLICY_LINES, NIB_ERR_FORMAT, "%s:%d: more than %d patterns",
                at.file, (int)at.line, (int)NIB_POLICY_LINES);
    NIB_TRY(words_read(at, words, n, &p->lines[p->count]));
    for (int32_t i = 0; i < p->count; i++)
        NIB_REQUIRE(strcmp(p->lines[i].pattern, words[0]), NIB_ERR_FORMAT,
                    "%s:%d: '%.*s' is the pattern of line %d already", at.file, (int)at.line,
                    SHOWN, words[0], (int)p->lines[i].line);
    p->count++;
    return NIB_OK;
}

static nib_status lines_read(nib_policy *p, size_t bytes)
{
    place at = { p->name, 0 };
    for (char *line = p->text, *const end = p->text + bytes; line < end;) {
        at.line++;
        char *stop = memchr(line, '\n', (size_t)(end - line));
        char *const next = stop ? stop + 1 : end;
        if (!stop) stop = end;
        else if (stop > line && stop[-1] == '\r') stop--;
        *stop = '\0';
        NIB_TRY(line_read(p, at, line, (size_t)(stop - line)));
        line = next;
    }
    NIB_REQUIRE(p->count > 0, NIB_ERR_FORMAT, "%s: no line says anything", p->name);
    return NIB_OK;
}

/* Copies text, cut to bytes - 1, with '?' for control characters. */
static const char *clean(char *dst, size_t bytes, const char *text)
{
    snprintf(dst, bytes, "%s", text);
    for (char *at = dst; *at; at++)
        if ((unsigned char)*at < ' ' || *at == 0x7f) *at = '?';
    return dst;
}

/* Takes text, malloc'd with room for a NUL behind it, even if it fails. */
static nib_status policy_make(const char *name, char *text, size_t bytes, nib_policy **out)
{
    nib_policy *p = calloc(1, sizeof *p);
    const size_t name_bytes = strlen(name) + 1;
    if (p) {
        p->is_export = bytes == sizeof export_text - 1 && !memcmp(text, export_text, bytes);
        p->text = text;
        p->name = malloc(name_bytes);
        p->lines = calloc(NIB_POLICY_LINES, sizeof *p->lines);
    } else {
        free(text);
    }
    nib_status status;
    if (p && p->name && p->lines) {
        (void)clean(p->name, name_bytes, name);
        status = lines_read(p, bytes);
    } else {
        status = nib_fail(NIB_ERR_OUT_OF_MEMORY, "no memory for a policy");
    }
    if (status == NIB_OK) *out = p;
    else nib_policy_close(p);
    return status;
}

static nib_status bytes_check(const char *name, uint64_t bytes)
{
    NIB_REQUIRE(bytes <= NIB_POLICY_BYTES, NIB_ERR_FORMAT,
                "%s: %llu bytes, at most %d are allowed for a policy", name,
                (unsigned long long)bytes, (int)NIB_POLICY_BYTES);
    return NIB_OK;
}

nib_status nib_policy_parse(const char *name, const char *text, size_t text_bytes,
                            nib_policy **policy)
{
    NIB_REQUIRE(policy, NIB_ERR_ARGUMENT, "policy_parse: policy is NULL");
    *policy = NULL;
    NIB_REQUIRE(name && text, NIB_ERR_ARGUMENT, "policy_parse: name or text is NULL");
    NIB_TRY(bytes_check(name, text_bytes));
    char *copy = malloc(text_bytes + 1);
    NIB_REQUIRE(copy, NIB_ERR_OUT_OF_MEMORY, "no memory for a policy");
    memcpy(copy, text, text_bytes);
    return policy_make(name, copy, text_bytes, policy);
}

/* The whole of a regular file, malloc'd with room for a NUL; never waits for a pipe. */
static nib_status file_read(int fd, const char *path, char **text, size_t *bytes)
{
    struct stat info;
    NIB_REQUIRE(fstat(fd, &info) == 0, NIB_ERR_IO, "%s: %s", path, strerror(errno));
    NIB_REQUIRE(S_ISREG(info.st_mode), NIB_ERR_IO, "%s: not a regular file", path);
    NIB_TRY(bytes_check(path, (uint64_t)info.st_size));
    *text = malloc((size_t)info.st_size + 1);
    NIB_REQUIRE(*text, NIB_ERR_OUT_OF_MEMORY, "no memory for a policy");
    for (*bytes = 0; *bytes < (size_t)info.st_size;) {
        const ssize_t got = read(fd, *text + *bytes, (size_t)info.st_size - *bytes);
        if (got < 0 && errno == EINTR) continue;
        NIB_REQUIRE(got >= 0, NIB_ERR_IO, "%s: %s", path, strerror(errno));
        if (got == 0) break; /* cut short meanwhile */
        *bytes += (size_t)got;
    }
    return NIB_OK;
}

nib_status nib_policy_open(const char *path, nib_policy **policy)
{
    NIB_TRACE_NAME();
    NIB_REQUIRE(policy, NIB_ERR_ARGUMENT, "policy_open: policy is NULL");
    *policy = NULL;
    NIB_REQUIRE(path, NIB_ERR_ARGUMENT, "policy_open: path is NULL");
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    NIB_REQUIRE(fd >= 0, NIB_ERR_IO, "%s: %s", path, strerror(errno));
    char *text = NULL;
    size_t bytes = 0;
    const nib_status status = file_read(fd, path, &text, &bytes);
    close(fd);
    if (status == NIB_OK) return policy_make(path, text, bytes, policy);
    free(text);
    return status;
}

void nib_policy_close(nib_policy *policy)
{
    if (!policy) return;
    free(policy->name);
    free(policy->text);
    free(policy->lines);
    free(policy);
}

int nib_policy_is_export(const nib_policy *policy) { return policy->is_export; }

int32_t nib_policy_count(const nib_policy *policy) { return policy ? policy->count : -1; }

static nib_status out_check(const nib_policy *policy, const nib_policy_line *line, const char *what)
{
    NIB_REQUIRE(policy && line, NIB_ERR_ARGUMENT, "%s: policy or line is NULL", what);
    NIB_REQUIRE(line->size >= LINE_V1, NIB_ERR_ARGUMENT,
                "%s: line->size is %u, at least %d is needed", what, line->size, (int)LINE_V1);
    return NIB_OK;
}

/* As much of line i as *line, of a size that was checked, has room for. */
static void line_out(const nib_policy *p, int32_t i, nib_policy_line *line)
{
    const uint32_t size = line->size;
    memcpy(line, &p->lines[i], size < sizeof *line ? LINE_V1 : sizeof *line);
    line->size = size;
}

nib_status nib_policy_get(const nib_policy *policy, int32_t i, nib_policy_line *line)
{
    NIB_TRY(out_check(policy, line, "policy_get"));
    NIB_REQUIRE(i >= 0 && i < policy->count, NIB_ERR_ARGUMENT,
                "policy_get: %d is outside 0..%d", (int)i, (int)policy->count - 1);
    line_out(policy, i, line);
    return NIB_OK;
}

/* On a mismatch only the last * has to be tried again, one character further: what an earlier one
 * took can stay. */
static int matches(const char *pattern, const char *name)
{
    const char *star = NULL, *retry = NULL;
    while (*name) {
        if (*pattern == '*') {
            star = ++pattern;
            retry = name;
        } else if (*pattern == '?' || *pattern == *name) {
            pattern++;
            name++;
        } else if (star) {
            pattern = star;
            name = ++retry;
        } else {
            return 0;
        }
    }
    while (*pattern == '*') pattern++;
    return *pattern == '\0';
}

/* The line that decides for name, or -1. */
static int32_t line_of(const nib_policy *p, const char *name)
{
    for (int32_t i = 0; i < p->count; i++)
        if (matches(p->lines[i].pattern, name)) return i;
    return -1;
}

static nib_status not_found(const nib_policy *policy, const char *name)
{
    char shown[256];
    return nib_fail(NIB_ERR_ARGUMENT, "%s: no line matches the tensor '%s'", policy->name,
                    clean(shown, sizeof shown, name));
}

nib_status nib_policy_find(const nib_policy *policy, const char *name, nib_policy_line *line)
{
    NIB_TRY(out_check(policy, line, "policy_find"));
    NIB_REQUIRE(name, NIB_ERR_ARGUMENT, "policy_find: name is NULL");
    const int32_t i = line_of(policy, name);
    if (i < 0) return not_found(policy, name);
    line_out(policy, i, line);
    return NIB_OK;
}

nib_status nib_policy_check(const nib_policy *policy, const char *const *names, size_t n_names)
{
    NIB_REQUIRE(policy && (names || n_names == 0), NIB_ERR_ARGUMENT,
                "policy_check: policy or names is NULL");
    unsigned char used[NIB_POLICY_LINES] = { 0 };
    for (size_t i = 0; i < n_names; i++) {
        NIB_REQUIRE(names[i], NIB_ERR_ARGUMENT, "policy_check: name %zu is NULL", i);
        const int32_t line = line_of(policy, names[i]);
        if (line < 0) return not_found(policy, names[i]);
        used[line] = 1;
    }
    for (int32_t i = 0; i < policy->count; i++)
        NIB_REQUIRE(used[i], NIB_ERR_ARGUMENT, "%s:%d: '%.*s' decides for no tensor", policy->name,
                    (int)policy->lines[i].line, SHOWN, policy->lines[i].pattern);
    return NIB_OK;
}
