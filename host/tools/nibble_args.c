/* nibble_args.c: values of options, with errors that name the valid ones. */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "nibble_tool.h"

void nibble_usage(const char *command, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "%s: ", command);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "; see `%s --help`\n", command);
    exit(2);
}

int nibble_choose(const char *command, const char *option, const char *text,
                  const nibble_choice *choices)
{
    char list[256] = "";
    for (const nibble_choice *c = choices; c->name; c++) {
        if (!strcmp(c->name, text)) return c->value;
        const size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", used ? ", " : "", c->name);
    }
    nibble_usage(command, "%s '%s' is unknown; the choices are %s", option, text, list);
}

static long long unit_of(const char *suffix)
{
    static const char letters[] = "kMGT";
    if (!*suffix) return 1;
    const char *at = strchr(letters, *suffix == 'K' ? 'k' : *suffix);
    if (!at || suffix[1]) return 0;
    long long unit = 1;
    for (const char *p = letters; p <= at; p++) unit *= 1000;
    return unit;
}

long long nibble_number(const char *command, const char *option, const char *text, long long low,
                        long long high)
{
    char *end;
    errno = 0;
    const long long number = strtoll(text, &end, 10);
    const long long unit = end == text ? 0 : unit_of(end);
    long long value = 0;
    if (errno || !unit || __builtin_mul_overflow(number, unit, &value) || value < low
        || value > high)
        nibble_usage(command, "%s '%s' is not a whole number from %lld to %lld", option, text, low,
                     high);
    return value;
}

double nibble_real(const char *command, const char *option, const char *text, double low,
                   double high)
{
    char *end;
    const double value = strtod(text, &end);
    if (end == text || *end || !(value >= low && value <= high))
        nibble_usage(command, "%s '%s' is not a number from %g to %g", option, text, low, high);
    return value;
}
