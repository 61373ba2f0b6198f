/* qbench_compare.c: `qbench compare`: what became faster and what slower, as far as the noise lets
 * one tell.
 *
 * change = new / old - 1 of the medians; margin, two standard errors of it. With threshold T:
 *
 *   SLOWER    change - margin >  T      FASTER    change + margin < -T
 *   SAME      |change| + margin <= T, or the medians are equal
 *   UNCLEAR   anything else: measure longer, or in turn */
#include <argp.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "qbench_compare.h"

enum { THRESHOLD = 0x100, FAIL_ON, MIN_SOL, INTERLEAVE, ROUNDS };
enum { MOST_FLOORS = 32 };

typedef struct comparison {
    nib_qb_comparison how;
    const char       *file[2];
    int               files, floors;
    struct { char op[32]; double sol; } floor[MOST_FLOORS];
} comparison;

static const char *const outcome_names[] = { "SAME", "FASTER", "SLOWER", "UNCLEAR", "MISSING" };
static const char *const outcome_words[] = { "same", "faster", "slower", "unclear", "missing" };

static const char head[] =
    "Compares the rows of two runs of qbench --json, or two builds run in turn.\v";

static const char tail[] =
    "change = new / old - 1 of the medians; margin, two standard errors of it: from the noise "
    "that the rows record (and the range of rows that are there several times), or from the "
    "rounds' ratios with --interleave. With threshold T a row is\n"
    "  SLOWER   if change - margin > T      FASTER  if change + margin < -T\n"
    "  SAME     if |change| + margin <= T, or the medians are equal\n"
    "  UNCLEAR  else: measure longer, or with --interleave\n\n"
    "Speeds of one machine differ by some percent between runs that know their own medians to "
    "1 %; differences as small as that are found with --interleave, which runs both builds in "
    "turn until every row is clear or the rounds are used up.\n\n"
    "Examples:\n"
    "  qbench compare old.json new.json --fail-on slower --min-sol quantize=0.6\n"
    "  qbench compare --interleave old/qbench build/qbench quantize --rows 4096 --cols 4096\n\n"
    "Exit status: 0 done; 1 a row is what --fail-on or --min-sol names, a new one was wrong, or a "
    "run failed; 2 wrong usage.";

nib_qb_outcome nib_qb_judge(double change, double margin, double threshold)
{
    if (change - margin > threshold) return NIB_QB_SLOWER;
    if (change + margin < -threshold) return NIB_QB_FASTER;
    if (change == 0 || fabs(change) + margin <= threshold) return NIB_QB_SAME;
    return NIB_QB_UNCLEAR;
}

static double number(struct argp_state *state, const char *option, const char *text, double low,
                     double high)
{
    char *end;
    const double x = strtod(text, &end);
    if (end == text || *end || !(x >= low && x <= high))
        argp_failure(state, 2, 0, "--%s: '%.64s' is not a number from %g to %g", option, text, low,
                     high);
    return x;
}

static void add_failures(struct argp_state *state, comparison *c, const char *list)
{
    for (const char *at = list;; at++) {
        const size_t n = strcspn(at, ",");
        int found = -1;
        for (int i = 0; i < NIB_QB_OUTCOMES; i++)
            if (strlen(outcome_words[i]) == n && !strncmp(outcome_words[i], at, n)) found = i;
        if (found < 0)
            argp_failure(state, 2, 0, "--fail-on: unknown '%.*s'; the choices are same, faster, "
                         "slower, unclear, missing", n < 64 ? (int)n : 64, at);
        else
            c->how.fail_on |= 1u << found;
        at += n;
        if (!*at) return;
    }
}

static void add_floor(struct argp_state *state, comparison *c, const char *text)
{
    const size_t n = strcspn(text, "=");
    int known = 0;
    for (int i = 0; nib_qb_ops[i]; i++)
        known |= strlen(nib_qb_ops[i]->name) == n && !strncmp(nib_qb_ops[i]->name, text, n);
    if (!text[n] || !known || c->floors == MOST_FLOORS)
        argp_failure(state, 2, 0, "--min-sol: '%.64s' is not an operation and a number, such as "
                     "quantize=0.9", text);
    snprintf(c->floor[c->floors].op, sizeof c->floor->op, "%.*s", (int)n, text);
    c->floor[c->floors++].sol = number(state, "min-sol", text + n + 1, 0, 100);
}

/* All that follows belongs to the two programs. */
static void take_programs(struct argp_state *state, comparison *c)
{
    char **rest = state->argv + state->next;
    const int n = state->argc - state->next;
    if (n < 3 || rest[0][0] == '-' || rest[1][0] == '-')
        argp_failure(state, 2, 0, "--interleave: needs two programs, and then an operation for "
                     "both");
    c->how.old = rest[0];
    c->how.new_ = rest[1];
    c->how.arguments = rest + 2;
    c->how.count = n - 2;
    state->next = state->argc;
}

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    comparison *c = state->input;
    switch (key) {
    case THRESHOLD:  c->how.threshold = number(state, "threshold", text, 0, 10); break;
    case ROUNDS:     c->how.rounds = (int)number(state, "rounds", text, 5, 1000); break;
    case FAIL_ON:    add_failures(state, c, text); break;
    case MIN_SOL:    add_floor(state, c, text); break;
    case INTERLEAVE: take_programs(state, c); break;
    case ARGP_KEY_ARG:
        if (c->files == 2) argp_failure(state, 2, 0, "takes two files, OLD and NEW");
        c->file[c->files++] = text;
        break;
    case ARGP_KEY_END:
        if (c->how.arguments ? c->files > 0 : c->files != 2)
            argp_failure(state, 2, 0, c->how.arguments ? "--interleave takes no files"
                                                       : "takes two files, OLD and NEW");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static const struct argp_option options[] = {
    { "threshold", THRESHOLD, "FRACTION", 0,
      "differences that do not matter (0.05; with --interleave 0.02)", 0 },
    { "fail-on", FAIL_ON, "LIST", 0, "exit with 1 if a row is slower, faster, same, unclear or "
      "missing", 0 },
    { "min-sol", MIN_SOL, "OP=FRACTION", 0, "or if a new row of OP reaches less of its limit, or "
      "none is there", 0 },
    { "interleave", INTERLEAVE, 0, 0, "OLD and NEW are programs; all that follows is theirs, but "
      "for --json", 0 },
    { "rounds", ROUNDS, "N", 0, "at most so many runs of each (20)", 0 },
    { 0 }
};

/* ---- the table ---- */

static nib_qb_change change_of(const nib_qb_comparison *how, const nib_qb_record *old,
                               const nib_qb_record *new_)
{
    if (how->arguments) return nib_qb_paired_change(old, new_, how->threshold);
    nib_qb_change c = { new_->median_us / old->median_us - 1, 0, NIB_QB_UNCLEAR };
    c.margin = 2 * (1 + c.change) * hypot(old->noise, new_->noise);
    c.outcome = nib_qb_judge(c.change, c.margin, how->threshold);
    return c;
}

static void print_sol(double sol)
{
    if (isnan(sol)) printf(" %5s", "-");
    else printf(" %5.2f", sol);
}

static void print_row(const nib_qb_record *old, const nib_qb_record *new_, const nib_qb_change *c)
{
    printf("%-8s %10.2f %10.2f %+8.1f %7.1f", outcome_names[c->outcome], old->median_us,
           new_->median_us, 100 * c->change, 100 * c->margin);
    print_sol(old->sol);
    print_sol(new_->sol);
    printf("  %s\n", new_->label);
}

static int report(const comparison *c, const nib_qb_records *old, const nib_qb_records *new_)
{
    int count[NIB_QB_OUTCOMES] = { 0 }, held[MOST_FLOORS] = { 0 }, bad = 0;
    printf("%-8s %10s %10s %8s %7s %5s %5s\n", "", "old us", "new us", "change %", "+- %", "sol",
           "sol");
    for (int i = 0; i < old->count; i++) {
        const nib_qb_record *other = nib_qb_record_find(new_, old->record[i].key);
        nib_qb_change change = { 0, 0, NIB_QB_MISSING };
        if (other) {
            change = change_of(&c->how, &old->record[i], other);
            print_row(&old->record[i], other, &change);
        } else {
            printf("%-8s %10.2f %10s %8s %7s %5s %5s  %s\n", "MISSING", old->record[i].median_us,
                   "-", "-", "-", "-", "-", old->record[i].label);
        }
        count[change.outcome]++;
    }
    for (int i = 0; i < new_->count; i++) {
        const nib_qb_record *r = &new_->record[i];
        if (!nib_qb_record_find(old, r->key))
            printf("%-8s %10s %10.2f %8s %7s %5s %5s  %s\n", "NEW", "-", r->median_us, "-", "-",
                   "-", "-", r->label);
        if (r->wrong) {
            fprintf(stderr, "qbench compare: new results were wrong: %s\n", r->label);
            bad = 1;
        }
        for (int k = 0; k < c->floors; k++) {
            if (strcmp(c->floor[k].op, r->op)) continue;
            held[k] |= !isnan(r->sol);
            if (!(r->sol < c->floor[k].sol)) continue;
            fprintf(stderr, "qbench compare: %.3f of its limit, less than --min-sol %s=%g: %s\n",
                    r->sol, r->op, c->floor[k].sol, r->label);
            bad = 1;
        }
    }
    for (int k = 0; k < c->floors; k++) {
        if (held[k]) continue;
        fprintf(stderr, "qbench compare: --min-sol %s=%g: no new row of it was held against a "
                "limit\n", c->floor[k].op, c->floor[k].sol);
        bad = 1;
    }
    for (int i = 0; i < NIB_QB_OUTCOMES; i++) {
        printf("%s%d %s", i ? ", " : "", count[i], outcome_names[i]);
        if (count[i] && (c->how.fail_on >> i & 1)) bad = 1;
    }
    printf("; threshold %g %%\n", 100 * c->how.threshold);
    return bad;
}

int nib_qb_compare_main(int argc, char **argv)
{
    comparison c = { .how = { .threshold = -1, .rounds = 20 } };
    static char doc[sizeof head + sizeof tail];
    snprintf(doc, sizeof doc, "%s%s", head, tail);
    const struct argp argp = { options, parse_option, "OLD NEW\n--interleave OLD NEW OP...", doc,
                               NULL, NULL, NULL };
    static char name[] = "qbench compare";
    argv[0] = name;
    argp_err_exit_status = 2;
    argp_parse(&argp, argc, argv, 0, NULL, &c);
    if (c.how.threshold < 0) c.how.threshold = c.how.arguments ? 0.02 : 0.05;

    nib_qb_records old = { 0 }, new_ = { 0 };
    char error[512];
    int status = 1;
    if (c.how.arguments) {
        if (nib_qb_interleave(&c.how, &old, &new_)) status = report(&c, &old, &new_);
    } else if (nib_qb_records_read(c.file[0], &old, error, sizeof error)
               && nib_qb_records_read(c.file[1], &new_, error, sizeof error)) {
        status = report(&c, &old, &new_);
    } else {
        fprintf(stderr, "qbench compare: %s\n", error);
    }
    nib_qb_records_free(&old);
    nib_qb_records_free(&new_);
    return status;
}
