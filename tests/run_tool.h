/* run_tool.h: runs the built `nibble` in a process of its own. */
#ifndef NIB_TEST_RUN_TOOL_H
#define NIB_TEST_RUN_TOOL_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "temp_dir.h"

#ifndef NIB_BUILD_DIR
#define NIB_BUILD_DIR "build"
#endif

typedef struct tool_result {
    int  status;      /* of exit; -signal if one ended it */
    long max_rss_kb;
    char out[8192], err[4096];
} tool_result;

enum { TOOL_ARGS = 24 };

/* What the child changes before it starts; NULL or a function. */
typedef void tool_setup(void);

/* Ends at the first NULL; "nibble" itself is not among them. Output goes to out and err. */
static inline pid_t tool_start(const char *const *args, const char *out, const char *err,
                               tool_setup *setup)
{
    const char *argv[TOOL_ARGS + 2] = { NIB_BUILD_DIR "/nibble" };
    for (int i = 0; i < TOOL_ARGS && args[i]; i++) argv[i + 1] = args[i];
    const pid_t child = fork();
    if (child) return child;
    const int out_fd = open(out, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    const int err_fd = open(err, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    dup2(out_fd, 1);
    dup2(err_fd, 2);
    if (setup) setup();
    execv(argv[0], (char *const *)(uintptr_t)argv);
    _exit(99);
}

static inline int tool_wait(pid_t child, long *max_rss_kb)
{
    int status = 0;
    struct rusage usage;
    memset(&usage, 0, sizeof usage);
    while (wait4(child, &status, 0, &usage) < 0 && errno == EINTR) {}
    if (max_rss_kb) *max_rss_kb = usage.ru_maxrss;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static inline void tool_text(const char *path, char *text, size_t bytes)
{
    size_t n = 0;
    char *all = temp_read(path, &n);
    snprintf(text, bytes, "%s", all ? all : "");
    free(all);
}

/* Runs to the end. dir: where its output may go. */
static inline tool_result tool_run_with(const temp_dir *dir, tool_setup *setup,
                                        const char *const *args)
{
    tool_result r = { 0 };
    char out[300], err[300];
    snprintf(out, sizeof out, "%s/stdout.txt", dir->path);
    snprintf(err, sizeof err, "%s/stderr.txt", dir->path);
    r.status = tool_wait(tool_start(args, out, err, setup), &r.max_rss_kb);
    tool_text(out, r.out, sizeof r.out);
    tool_text(err, r.err, sizeof r.err);
    return r;
}

#define tool_run(dir, ...) \
    tool_run_with(dir, NULL, (const char *const[TOOL_ARGS + 1]){ __VA_ARGS__ })

#endif
