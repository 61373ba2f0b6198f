/* nibble_main.c: picks the subcommand. */
#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "nibble_tool.h"

const nibble_command nibble_commands[] = {
    { "quantize", "make a 4-bit (or INT8) checkpoint of a model", nibble_quantize_main },
    { "gptq", "quantize layers by the Hessians of their inputs", nibble_gptq_main },
    { "info", "list a model's tensors", nibble_info_main },
    { "compare", "measure how far one model's weights are from another's", nibble_compare_main },
    { "merge", "join the parts that quantize --shard I/N wrote", nibble_merge_main },
    { NULL, NULL, NULL },
};

static void print_help(FILE *out)
{
    fputs("Usage: nibble COMMAND [ARGUMENTS]\n\n"
          "Puts models into 4-bit floating point (NVFP4, MXFP4) or integers (INT4, INT8),\n"
          "without a GPU or Python.\n"
          "A model is a Hugging Face folder, a safetensors file or a GGUF file.\n\n", out);
    for (const nibble_command *c = nibble_commands; c->name; c++)
        fprintf(out, "  %-10s %s\n", c->name, c->summary);
    fputs("\nExamples:\n"
          "  nibble info model/\n"
          "  nibble quantize model/ -o model-nvfp4/ --format nvfp4 --export modelopt\n"
          "  nibble quantize model.gguf -o model-mxfp4.gguf --format mxfp4\n"
          "  nibble quantize model/ -o model-w4a16/ --format int4 --block 128\n"
          "  nibble gptq layers.safetensors --hessians h.safetensors -o layers-nvfp4/\n"
          "  nibble compare model/ model-nvfp4/\n\n"
          "`nibble COMMAND --help` explains a command. Exit status: 0 done, 1 the work failed,\n"
          "2 wrong usage.\n", out);
}

/* What was said must have arrived: a full disk behind standard output is a failure. */
static int finished(int status)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) return status;
    fprintf(stderr, "nibble: standard output: %s\n", strerror(errno));
    return status ? status : 1;
}

int main(int argc, char **argv)
{
    argp_err_exit_status = 2;
    if (argc < 2) {
        print_help(stderr);
        return 2;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        print_help(stdout);
        return finished(0);
    }
    if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
        printf("nibble %s\n", nib_version());
        return finished(0);
    }
    for (const nibble_command *c = nibble_commands; c->name; c++) {
        if (strcmp(argv[1], c->name)) continue;
        char name[32];
        snprintf(name, sizeof name, "nibble %s", c->name);
        argv[1] = name;
        return finished(c->run(argc - 1, argv + 1));
    }
    fprintf(stderr, "nibble: unknown command '%s'; the commands are quantize, gptq, info, "
                    "compare, merge\n", argv[1]);
    return 2;
}
